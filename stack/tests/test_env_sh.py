"""``. ./env.sh`` tells a shell, and the programs in it, the stack's ports."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from stack.settings import ROOT, Settings

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the tool with its own ``.env``."""
    shutil.copytree(ROOT / "stack" / "src", tmp_path / "stack" / "src")
    shutil.copy(ROOT / "env.sh", tmp_path)
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    return tmp_path


def printed(checkout: Path, script: str, *, shell: str = "sh", **environment: str) -> list[str]:
    """The output of a script that begins with ``. ./env.sh``."""
    names = {name.upper() for name in Settings.model_fields} | {ENDPOINT}
    kept = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [shell, "-euc", f". ./env.sh\n{script}"],
        cwd=checkout,
        env=kept | {"PYTHONPATH": str(checkout / "stack" / "src"), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return (done.stdout + done.stderr).splitlines()


SAY = "sh -c 'echo \"$MQTT_PORT $ECHO_PORT $OTEL_EXPORTER_OTLP_ENDPOINT\"'"
# Prints the port that `make up` would use.
USED = '.venv/bin/python -c "from stack.settings import Settings; print(Settings().mqtt_port)"'


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_the_environment_beats_the_file_and_that_beats_the_defaults(checkout: Path, shell: str) -> None:
    (checkout / ".env").write_text("MQTT_PORT=2883\nOTLP_GRPC_PORT=5317\nECHO_PORT=\n")
    assert printed(checkout, SAY, shell=shell) == ["2883 8080 http://127.0.0.1:5317"]
    assert printed(checkout, SAY, shell=shell, MQTT_PORT="3883") == ["3883 8080 http://127.0.0.1:5317"]


def test_what_it_has_set_holds_up_no_change_of_the_file(checkout: Path) -> None:
    (checkout / ".env").write_text("MQTT_PORT=2883\n")
    change = "echo MQTT_PORT=2884 >.env"
    assert printed(checkout, f"{SAY}\n{change}\n{USED}\n. ./env.sh\n{SAY}") == [
        "2883 8080 http://127.0.0.1:4317",
        "2884",
        "2884 8080 http://127.0.0.1:4317",
    ]
    # The user's own variables still override the file.
    assert printed(checkout, f"{change}\n{USED}\nMQTT_PORT=4883 {USED}", MQTT_PORT="3883") == ["3883", "4883"]


def test_a_wrong_value_is_one_line_and_ends_a_script(checkout: Path) -> None:
    (checkout / ".env").write_text("MQTT_PORT=many\n")
    assert printed(checkout, SAY) == ["MQTT_PORT is 'many'; it must be a TCP port, 1 to 65535"]


def test_it_tells_no_secret(checkout: Path) -> None:
    (checkout / ".env").write_text("MQTT_PRODUCER_PASSWORD=very-secret\n")
    assert not [line for line in printed(checkout, "env") if "very-secret" in line]
