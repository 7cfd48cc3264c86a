"""The pictures of the docs show what a user sees: the viewer's own page in a real browser."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import Stack
from stack.settings import ROOT


@pytest.mark.timeout(480)
def test_the_viewers_page_shows_every_span_of_the_reading(new_stack: Callable[..., Stack], tmp_path: Path) -> None:
    # One of its own: beside the traces of other tests, the search showed no details within 90 s.
    stack = new_stack()
    stack.up()
    command = [sys.executable, str(ROOT / "docs" / "screenshots.py"), str(tmp_path)]
    done = subprocess.run(command, env=stack.environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for picture in ("trace.png", "missing-context.png", "log.png"):
        assert (tmp_path / picture).stat().st_size > 20_000
