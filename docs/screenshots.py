"""Takes the screenshots of the docs: ``make docs PICTURES=1``, with the stack up; an argument names another folder.

Sends a reading as ``make verify`` does, and one as a legacy publisher does, and shows them in the viewer. The broker
must take clients without TLS (``MQTT_TLS=0``).
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from playwright.sync_api import Page, sync_playwright

from stack.part import local_url
from stack.settings import Settings
from stack.viewer import Viewer

PICTURES = Path(__file__).parent / "pictures"
LEGACY_TOPIC = "sensors/legacy-001/reading"
SECONDS = 20.0
# Without a network, Chromium's own connections would only delay it.
OPTIONS = ["--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


def publish_legacy_reading(settings: Settings) -> None:
    """Publishes a reading with MQTT 3.1.1, which has no user properties, and waits until its trace is in the viewer."""
    reading = {
        "message_id": str(uuid4()),
        "device_id": "legacy-001",
        "sequence": 1,
        "timestamp": datetime.now(UTC).isoformat(),
        "temperature_c": 20.5,
        "humidity_pct": 45.0,
    }
    login = ["-u", settings.mqtt_operator_username, "-P", settings.mqtt_operator_password.get_secret_value()]
    command = ["mosquitto_pub", "-V", "mqttv311", "-p", str(settings.mqtt_port), *login, "-q", "1", "-t", LEGACY_TOPIC]
    subprocess.run([*command, "-m", json.dumps(reading)], check=True, timeout=SECONDS)
    viewer = Viewer(settings.viewer_port)
    deadline = time.monotonic() + SECONDS
    while not viewer.trace_ids(0, time.time_ns(), ("messaging.message.id", reading["message_id"])):
        if time.monotonic() > deadline:
            raise SystemExit(f"the legacy reading did not reach the viewer within {SECONDS:.0f} s")
        time.sleep(0.1)


def open_trace(page: Page, url: str) -> None:
    """Opens a trace's page and waits until each of its spans is there."""
    page.goto(url)
    for span in ("publish sensors/sensor-001/reading", "process sensors/sensor-001/reading", "POST /echo"):
        page.get_by_text(span).first.wait_for()
    # Fonts and the bars of the waterfall come after the text.
    page.wait_for_load_state("networkidle")


def search_missing_contexts(page: Page, viewer_port: int) -> None:
    """Searches for messages without a usable context, as a user types it."""
    page.goto(local_url(viewer_port, "/traces"))
    page.wait_for_load_state("networkidle")
    page.locator("[contenteditable=true]").first.click()
    page.keyboard.type('mqtt.missing_context = "true"')
    page.keyboard.press("Enter")
    page.get_by_text("mqtt.missing_context_reason").first.wait_for()
    page.get_by_text(f"process {LEGACY_TOPIC}").first.wait_for()
    page.wait_for_load_state("networkidle")


def open_log_record(page: Page, viewer_port: int) -> None:
    """Opens a log record that was written inside a process span."""
    page.goto(local_url(viewer_port, "/logs"))
    page.get_by_text("processed reading").first.click()
    page.get_by_text("trace id (string)").first.wait_for()
    page.wait_for_load_state("networkidle")


def main() -> int:
    """Takes all pictures; returns the exit code."""
    verified = subprocess.run([sys.executable, "-m", "stack", "verify"], capture_output=True, text=True, check=False)
    url = re.search(r"http://\S+/traces/[0-9a-f]{32}", verified.stdout)
    if url is None:
        sys.stderr.write(verified.stdout + verified.stderr)
        return 1
    settings = Settings()
    publish_legacy_reading(settings)
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURES
    folder.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=[*OPTIONS, *(["--no-sandbox"] if os.getuid() == 0 else [])],
        )
        page = browser.new_page(viewport={"width": 1720, "height": 600})
        # Also while the machine has much else to do.
        page.set_default_timeout(90_000)
        open_trace(page, url[0])
        page.screenshot(path=folder / "trace.png")
        page.set_viewport_size({"width": 1720, "height": 700})
        search_missing_contexts(page, settings.viewer_port)
        page.screenshot(path=folder / "missing-context.png")
        open_log_record(page, settings.viewer_port)
        page.screenshot(path=folder / "log.png")
        browser.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
