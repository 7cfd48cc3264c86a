"""The machine that measured, in words that name no machine."""

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import psutil

from stack.build import search_path


def describe() -> dict[str, str]:
    """The properties of the machine that affect the figures."""
    return {
        "CPU": f"{_cpu_model()}, {os.cpu_count()} cores",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release().split('-')[0]}",
        "Python": platform.python_version(),
        "Mosquitto": _mosquitto_version(),
        **{name: version(name) for name in ("paho-mqtt", "requests", "opentelemetry-sdk")},
    }


def _cpu_model() -> str:
    information = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)$", information.read_text(), re.M) if information.exists() else None
    return found[1] if found else platform.machine()


def _mosquitto_version() -> str:
    environment = {**os.environ, "PATH": search_path()}
    done = subprocess.run(["mosquitto", "-h"], env=environment, capture_output=True, text=True, check=False)
    return done.stdout.split("\n")[0].removeprefix("mosquitto version ")
