"""The pictures of the docs show what a user sees: the viewer's own page in a real browser."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from harness import Stack
from stack.settings import ROOT

PICTURES = ROOT / "docs" / "pictures"
TEXT = "{http://www.w3.org/2000/svg}text"


@pytest.mark.timeout(480)
def test_the_viewers_page_shows_every_span_of_the_reading(new_stack: Callable[..., Stack], tmp_path: Path) -> None:
    # Its own stack: among the traces of other tests, the search showed no details within 90 s.
    stack = new_stack()
    stack.up()
    command = [sys.executable, str(ROOT / "docs" / "screenshots.py"), str(tmp_path)]
    done = subprocess.run(command, env=stack.environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for picture in ("trace.png", "missing-context.png", "log.png"):
        assert (tmp_path / picture).stat().st_size > 20_000

    # The recording comes from the same stack.
    command = [sys.executable, str(ROOT / "docs" / "recording.py"), str(tmp_path)]
    subprocess.run(command, env=stack.environment, check=True, timeout=60)
    recorded = " ".join(texts(tmp_path / "verify.svg"))
    assert "make verify" in recorded
    assert re.search(r"One reading, one trace: http://127\.0\.0\.1:\d+/traces/[0-9a-f]{32}", recorded)


def texts(picture: Path) -> list[str]:
    """The texts in an SVG."""
    return ["".join(element.itertext()).replace("\xa0", " ") for element in ElementTree.parse(picture).iter(TEXT)]  # noqa: S314 (our own)


@pytest.mark.parametrize("name", ["verify", "service-map"])
def test_the_pictures_of_the_docs_show_the_stack_of_the_docs(name: str) -> None:
    written = " ".join(texts(PICTURES / f"{name}.svg"))
    assert all(service in written for service in ("producer", "consumer", "echo"))


def test_the_picture_of_the_dashboard_has_its_panels() -> None:
    dashboard = ROOT / "backends" / "observability" / "grafana" / "dashboards" / "readings.json"
    panels = json.loads(dashboard.read_text())["panels"]
    titles = [panel["title"] for panel in panels if panel["gridPos"]["y"] < 28]
    written = texts(PICTURES / "dashboard.svg")
    assert [text for text in written if text in titles] == titles


def test_the_architecture_is_drawn_from_its_source(tmp_path: Path) -> None:
    source = PICTURES / "architecture.dot"
    subprocess.run(["dot", "-Tsvg", "-o", tmp_path / "drawn.svg", source], check=True)
    assert texts(PICTURES / "architecture.svg") == texts(tmp_path / "drawn.svg")
