"""Takes the pictures of the docs: ``make screenshots``, with the stack up; an argument names another folder.

Sends a reading first, as ``make verify`` does, and shows its trace in the viewer.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

PICTURES = Path(__file__).parent / "pictures"
# Without a network, Chromium's own connections would only delay it.
OPTIONS = ["--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


def open_trace(page: Page, url: str) -> None:
    """Opens a trace's page and waits until each of its spans is there."""
    page.goto(url)
    for span in ("publish sensors/sensor-001/reading", "process sensors/sensor-001/reading", "POST /echo"):
        page.get_by_text(span).first.wait_for()
    # Fonts and the bars of the waterfall come after the text.
    page.wait_for_load_state("networkidle")


def main() -> int:
    """Takes all pictures; returns the exit code."""
    verified = subprocess.run([sys.executable, "-m", "stack", "verify"], capture_output=True, text=True, check=False)
    url = re.search(r"http://\S+/traces/[0-9a-f]{32}", verified.stdout)
    if url is None:
        sys.stderr.write(verified.stdout + verified.stderr)
        return 1
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURES
    folder.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=[*OPTIONS, *(["--no-sandbox"] if os.getuid() == 0 else [])],
        )
        page = browser.new_page(viewport={"width": 1720, "height": 600})
        open_trace(page, url[0])
        page.screenshot(path=folder / "trace.png")
        browser.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
