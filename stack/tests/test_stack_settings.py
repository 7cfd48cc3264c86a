import json
import subprocess
import sys
from pathlib import Path

import pytest

from service import load_settings
from stack import launch
from stack.settings import BACKENDS, SCOUT_VARIABLES, Settings


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        load_settings(Settings)
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_the_environment_beats_the_file_which_beats_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("ECHO_PORT=1111\nMQTT_PORT=2222\nVIEWER_PORT=\n")
    monkeypatch.setenv("ECHO_PORT", "3333")
    settings = load_settings(Settings)
    assert (settings.echo_port, settings.mqtt_port, settings.viewer_port) == (3333, 2222, 8000)


def test_with_nothing_set_the_local_scout_stands_in() -> None:
    settings = load_settings(Settings)
    assert settings.local_scout
    assert "VIEWER_PORT" in settings.ports()


def test_with_all_four_values_the_local_scout_stays_off(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SCOUT_VARIABLES:
        monkeypatch.setenv(name, "https://scout.example/x")
    settings = load_settings(Settings)
    assert not settings.local_scout
    assert not {"VIEWER_PORT", "ISSUER_PORT", "GATEWAY_PORT"} & settings.ports().keys()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("RUNTIME", "podman", "docker, local or kubernetes"),
        ("MQTT_PORT", "70000", "a TCP port, 1 to 65535"),
        ("MQTT_PRODUCER_USERNAME", "a:b", "1 to 64 letters, digits, _ . or -"),
        ("DEVICES", "0", "a number of sensors, 1 to 100000"),
        ("CONSUMERS", "17", "a number of consumers, 1 to 16"),
        ("COLLECTOR_DEBUG_VERBOSITY", "loud", "basic, normal or detailed"),
        ("SCOUT_TOKEN_URL", "scout", "an http:// or https:// URL"),
        (
            "BACKENDS",
            "zipkin,tempo",
            f"names from {', '.join(BACKENDS)}, with commas between",
        ),
        ("TAIL_SAMPLING_PERCENTAGE", "101", "the percentage of ordinary traces to keep, 0 to 100"),
    ],
)
def test_a_wrong_value_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(name, value)
    assert refusal(capsys) == f"{name} is {value!r}; it must be {expected}"


def test_backends_are_a_list_and_grafana_brings_prometheus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKENDS", " zipkin, grafana,zipkin")
    settings = load_settings(Settings)
    assert settings.backends == ("zipkin", "prometheus", "grafana")
    assert {"ZIPKIN_PORT", "COLLECTOR_PROMETHEUS_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT"} <= settings.ports().keys()
    assert "JAEGER_PORT" not in settings.ports()


def test_azure_monitor_without_an_address_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BACKENDS", "azuremonitor")
    assert refusal(capsys) == "APPLICATIONINSIGHTS_CONNECTION_STRING not set, but BACKENDS has azuremonitor"


def test_two_parts_on_one_port_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ECHO_PORT", "1883")
    assert refusal(capsys) == "MQTT_PORT and ECHO_PORT are both 1883; give each part a port of its own"


@pytest.mark.parametrize("password", ["two\nlines", "a:b", "x" * 129])
def test_a_password_that_the_broker_would_cut_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], password: str
) -> None:
    monkeypatch.setenv("MQTT_PRODUCER_PASSWORD", password)
    line = refusal(capsys)
    assert (
        line == "MQTT_PRODUCER_PASSWORD is (not shown); it must be 1 to 128 characters without a colon or a line break"
    )


def test_launch_hands_over_an_environment_with_quotes_and_percent_signs(tmp_path: Path) -> None:
    described = tmp_path / "part.json"
    environment = {"PASSWORD": "100%(ENV_X)s \"quoted\" 'too' ü"}
    program = [sys.executable, "-c", "import os; print(os.environ['PASSWORD'])"]
    described.write_text(json.dumps({"command": program, "environment": environment}))
    done = subprocess.run([sys.executable, launch.__file__, str(described)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == environment["PASSWORD"]
