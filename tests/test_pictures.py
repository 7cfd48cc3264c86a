"""The pictures of the docs show what a user sees: the viewer's own page in a real browser."""

import subprocess
import sys
from pathlib import Path

from harness import Stack
from stack.settings import ROOT


def test_the_viewers_page_shows_every_span_of_the_reading(stack: Stack, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "docs" / "screenshots.py"), str(tmp_path)]
    done = subprocess.run(command, env=stack.environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for picture in ("trace.png", "missing-context.png", "log.png"):
        assert (tmp_path / picture).stat().st_size > 20_000
