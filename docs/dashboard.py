"""Draws the upper half of the dashboard *Readings* from a running Prometheus; an argument names another folder.

The panels and their queries are those of the dashboard's file. Grafana draws them in its own style.
"""

import json
import re
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import requests
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.dates import DateFormatter, MinuteLocator

from stack.part import local_url
from stack.settings import ROOT, Settings

DASHBOARD = ROOT / "backends" / "observability" / "grafana" / "dashboards" / "readings.json"
SECONDS, STEP_SECONDS, DAY_SECONDS = 600, 5, 86_400
# Of Grafana's grid, which has 24 columns.
ROWS, COLUMNS = 28, 24
INTERVALS = {"$__rate_interval": "1m", "$__range": f"{SECONDS}s"}
UNITS = {"mps": "per second", "s": "seconds", "short": "number"}


def series(port: int, target: Mapping[str, str], seconds: int) -> Iterator[tuple[str, list[float], list[float]]]:
    """Name, times in days since 1970 and values of each series of a query, over the last seconds."""
    expression = target["expr"]
    for name, interval in INTERVALS.items():
        expression = expression.replace(name, interval)
    now = time.time()
    asked = {"query": expression, "start": now - seconds, "end": now, "step": STEP_SECONDS}
    answer = requests.get(local_url(port, "/api/v1/query_range"), asked, timeout=10)
    answer.raise_for_status()
    for found in answer.json()["data"]["result"]:
        labels = found["metric"]
        legend = re.sub(r"{{(\w+)}}", lambda match, labels=labels: labels.get(match[1], ""), target["legendFormat"])
        times, values = zip(*found["values"], strict=True)
        yield legend, [at / DAY_SECONDS for at in times], [float(value) for value in values]


def number(value: float, unit: str) -> str:
    """A value as a person writes it."""
    if unit != "s":
        return f"{value:.3g}"
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"


def draw(panel: Mapping[str, Any], axes: Axes, port: int) -> None:
    """Draws one panel: a number, or lines."""
    unit = panel["fieldConfig"]["defaults"]["unit"]
    if panel["type"] == "stat":
        values = [values[-1] for target in panel["targets"] for _, _, values in series(port, target, 0)]
        axes.set_title(panel["title"], fontsize=8)
        axes.text(0.5, 0.5, number(values[0], unit) if values else "no data", fontsize=18, ha="center", va="center")
        axes.set_axis_off()
        return
    axes.set_title(panel["title"], fontsize=10, loc="left")
    for target in panel["targets"]:
        for legend, times, values in series(port, target, SECONDS):
            axes.plot(times, values, label=legend, linewidth=1.2)
    axes.set_ylabel(UNITS[unit], fontsize=8)
    axes.set_ylim(bottom=0)
    now = time.time()
    axes.set_xlim((now - SECONDS) / DAY_SECONDS, now / DAY_SECONDS)
    axes.xaxis.set_major_locator(MinuteLocator(byminute=range(0, 60, 2)))
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M"))
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=8, loc="upper left")


def main() -> None:
    """Writes the picture."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures"
    # Text stays text.
    pyplot.rcParams["svg.fonttype"] = "none"
    figure = pyplot.figure(figsize=(13, 9), layout="constrained")
    grid = figure.add_gridspec(ROWS, COLUMNS)
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        x, y, width, height = (panel["gridPos"][name] for name in "xywh")
        if y < ROWS:
            draw(panel, figure.add_subplot(grid[y : y + height, x : x + width]), Settings().prometheus_port)
    figure.savefig(folder / "dashboard.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
