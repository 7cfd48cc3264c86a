"""The bugs that docs/upstream reports exist, and its patches fix them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import paho

from stack.settings import ROOT

REPORTS = ROOT / "docs" / "upstream"


def run(code: str, packages: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(packages)} if packages else {}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_paho_refuses_a_byte_order_mark_and_its_patch_mends_that(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (REPORTS / "paho-mqtt.md").read_text(), re.S)
    assert "MalformedPacket: [MQTT-1.5.4-3]" in run(code).stderr

    shutil.copytree(Path(next(iter(paho.__path__))), tmp_path / "src" / "paho")
    subprocess.run(["git", "apply", str(REPORTS / "paho-mqtt.patch")], cwd=tmp_path, check=True)
    done = run(f"{code}print(received.UserProperty, received.__class__.__module__)", tmp_path / "src")
    assert done.stdout == "[('x', '\\ufeff')] paho.mqtt.properties\n", done.stderr
