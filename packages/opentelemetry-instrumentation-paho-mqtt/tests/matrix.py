# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""Runs the tests on each supported Python that the machine has, with each supported paho-mqtt.

All packages have the versions of the lock file, except paho-mqtt, and aiomqtt, which depends on paho's version. On the
oldest Python, with the oldest paho-mqtt, the tests run a second time with the oldest OpenTelemetry.
"""

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from uv import find_uv_bin

PACKAGE = Path(__file__).parents[1]
LOCK = PACKAGE.parents[1] / "requirements" / "dev.txt"
PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]
PAHO_VERSIONS = ["2.0.0", "2.1.0", "2.2.0"]
# The oldest versions that pyproject.toml allows; OpenTelemetry's packages have two version numbers.
OLDEST = {"1": "1.30.0", "0": "0.51b0"}
FREE = ("aiomqtt==", "paho-mqtt==")
NEEDED = [
    "aiomqtt",
    "hatchling",
    "hypothesis",
    "opentelemetry-distro",
    "opentelemetry-exporter-otlp-proto-common",
    "opentelemetry-sdk",
    "pytest",
    "pytest-timeout",
    "uv",
]


def find_python(version: str) -> str | None:
    """The interpreter of a version such as ``3.12``, from PATH or pyenv; None if there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = shutil.which(f"python{version}")
    # A pyenv shim is on PATH for each installed version, whether or not that version is active.
    if found is not None and "shims" not in Path(found).parts:
        return found
    return next((str(python) for python in sorted(pyenv.glob(f"{version}.*/bin/python"))), None)


def python_is_oldest(python: Path) -> bool:
    """Whether an interpreter is the oldest supported Python."""
    done = subprocess.run([python, "--version"], capture_output=True, text=True, check=True)
    return done.stdout.startswith(f"Python {PYTHONS[0]}.")


def constraint(pin: str, oldest: bool) -> str:
    """A line of the lock file, with the oldest version for OpenTelemetry's packages if ``oldest`` is set."""
    name, _, version = pin.partition("==")
    return f"{name}=={OLDEST[version[0]]}" if oldest and name.startswith("opentelemetry-") else pin


def run(python: str, paho: str, oldest: bool, pytest_arguments: list[str]) -> bool:
    """Runs the tests in a new environment; tells whether they passed."""
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "venv"
        uv = [find_uv_bin(), "--quiet"]
        subprocess.run([*uv, "venv", "--python", python, str(environment)], check=True)
        executable = environment / "bin" / "python"
        install = [*uv, "pip", "install", "--python", str(executable)]
        constraints = Path(folder) / "constraints.txt"
        pins = [line.split(" \\")[0] for line in LOCK.read_text().splitlines() if "==" in line]
        # The lock file is for the Pythons of the stack. The oldest one here is older, so only OpenTelemetry is pinned.
        of_all = not python_is_oldest(executable)
        kept = [pin for pin in pins if (of_all or pin.startswith("opentelemetry-")) and not pin.startswith(FREE)]
        constraints.write_text("\n".join(constraint(pin, oldest) for pin in kept))
        requirement = paho if Path(paho).exists() else f"paho-mqtt=={paho}"
        subprocess.run([*install, "-c", str(constraints), requirement, str(PACKAGE), *NEEDED], check=True)
        # Do not use the workspace's configuration, which measures the coverage of all packages.
        command = [
            str(executable),
            "-m",
            "pytest",
            "-q",
            "--import-mode=importlib",
            "-c",
            os.devnull,
            "-p",
            "no:cacheprovider",
        ]
        return (
            subprocess.run([*command, *pytest_arguments, str(PACKAGE / "tests")], cwd=folder, check=False).returncode
            == 0
        )


def main() -> int:
    """Runs all combinations; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--python", action="append", help=f"a Python version; all of {', '.join(PYTHONS)} by default")
    parser.add_argument(
        "--paho",
        action="append",
        help=f"a version of paho-mqtt or its source; all of {', '.join(PAHO_VERSIONS)} by default",
    )
    arguments, pytest_arguments = parser.parse_known_args()
    combinations = [
        (version, paho, False)
        for version, paho in itertools.product(arguments.python or PYTHONS, arguments.paho or PAHO_VERSIONS)
    ]
    combinations.insert(0, (*combinations[0][:2], True))
    passed = True
    for version, paho, oldest in combinations:
        what = f"Python {version}, paho-mqtt {paho}, {'oldest' if oldest else 'locked'} OpenTelemetry"
        python = find_python(version)
        if python is None:
            sys.stdout.write(f"{what}: skipped, this machine has no such Python\n")
            continue
        succeeded = run(python, paho, oldest, pytest_arguments)
        sys.stdout.write(f"{what}: {'passed' if succeeded else 'FAILED'}\n")
        sys.stdout.flush()
        passed = passed and succeeded
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
