"""Draws the main figures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt


def draw(stored: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """Draws bars for each row of the most important tables."""
    chosen = [
        (subject, table)
        for subject, entry in stored.items()
        for table in entry["tables"]
        if table["title"].startswith(("Readings a second", "Publish to echo", "Devices", "Payload", "Consumers"))
    ]
    _, axes = plt.subplots(-(-len(chosen) // 2), 2, figsize=(12, 3.2 * -(-len(chosen) // 2)), squeeze=False)
    for axis, (subject, table) in zip(axes.flat, chosen, strict=False):
        labels = [row[0] for row in table["rows"]]
        for column, name in enumerate(table["columns"][1:], 1):
            axis.plot(labels, [row[column] for row in table["rows"]], marker="o", label=name)
        axis.set_title(f"{subject}: {table['title']}", fontsize=8)
        axis.set_xlabel(table["columns"][0], fontsize=8)
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=7)
    for axis in axes.flat[len(chosen) :]:
        axis.set_axis_off()
    plt.tight_layout()
    plt.savefig(file, dpi=100)
