"""The stack without its own broker, with a Mosquitto that somebody else runs."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import Stack, eventually, free_ports, mosquitto, throughout
from stack.doctor.broker import listen
from stack.environment import system_environment
from stack.settings import Settings


@dataclass
class Foreign:
    """The broker's ports, and its log."""

    port: int
    websockets: int
    log: Path


@pytest.fixture(scope="module")
def foreign_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Foreign]:
    """A broker that accepts unknown users."""
    websockets, plain = free_ports(2)
    # Mosquitto 2.0.11 does not start with only a WebSocket listener.
    listeners = f"listener {plain} 127.0.0.1", f"listener {websockets} 127.0.0.1", "protocol websockets"
    with mosquitto(tmp_path_factory.mktemp("foreign"), *listeners, "allow_anonymous true") as log:
        yield Foreign(plain, websockets, log)


@pytest.fixture(scope="module")
def guest(new_shared_stack: Callable[..., Stack], foreign_broker: Foreign) -> Stack:
    given = {"MQTT_PORT": str(foreign_broker.websockets), "MQTT_TRANSPORT": "websockets", "MQTT_LOGIN": "anonymous"}
    stack = new_shared_stack(BROKER="external", MQTT_HOST="localhost", CONSUMERS="2", INTERVAL_SECONDS="1", **given)
    stack.up()
    return stack


def test_it_runs_without_a_broker_of_its_own(guest: Stack, foreign_broker: Foreign) -> None:
    assert "mosquitto" not in {name for name, _, _ in guest.runtime.states()}
    assert not guest.runtime.away()
    done = guest.run("verify")
    assert done.returncode == 0, done.stdout + done.stderr
    listed = guest.run("ps").stdout
    assert f"mqtt://localhost:{foreign_broker.websockets}" in listed


def test_the_doctor_listens_there_too(guest: Stack) -> None:
    done = guest.run("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "protocol: not known: the broker (BROKER=external) and its log are yours." in done.stdout
    assert "each of" in done.stdout


def test_the_doctor_speaks_what_the_consumer_speaks(foreign_broker: Foreign, tmp_path: Path) -> None:
    port = str(foreign_broker.port)
    stack = Stack(tmp_path, BROKER="external", MQTT_PORT=port)
    (tmp_path / "parts").mkdir()
    described = {"environment": {"MQTT_PORT": port, "MQTT_CONSUMER_PROTOCOL": "3.1.1"}}
    (tmp_path / "parts" / "consumer.json").write_text(json.dumps(described))
    listen(stack.runtime, stack.settings)
    assert re.search(r" as doctor-\S+ \(p2, ", foreign_broker.log.read_text())


@contextmanager
def by_hand(module: str, *arguments: str, **values: str) -> Iterator[subprocess.Popen[str]]:
    """Runs a service as somebody does who has set only these variables."""
    environment = {**system_environment(), "OTEL_SDK_DISABLED": "true", "PYTHONUNBUFFERED": "1", **values}
    with subprocess.Popen(
        [sys.executable, "-m", module, *arguments], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_second_producer_takes_over_nobody(foreign_broker: Foreign, tmp_path: Path) -> None:
    def connected() -> list[str]:
        return re.findall(r" as (producer\S*) \(", foreign_broker.log.read_text())

    values = {"MQTT_PORT": str(foreign_broker.port), "MQTT_LOGIN": "anonymous"}
    before = len(connected())
    with (
        by_hand("producer", HEALTH_FILE=f"{tmp_path}/1", **values),
        by_hand("producer", HEALTH_FILE=f"{tmp_path}/2", **values),
    ):
        for number in (1, 2):
            eventually((tmp_path / str(number)).exists)
        # They stay connected, and healthy: a beat is at most a second old.
        throughout(3, lambda: len(connected()) == before + 2)
    assert len(set(connected())) == len(connected())


def test_with_fewer_consumers_the_session_of_the_other_is_ended(guest: Stack) -> None:
    assert guest.run("down").returncode == 0
    guest.environment["CONSUMERS"] = "1"
    done = guest.run("up")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "what the session still holds" in (guest.settings.run_dir / "logs" / "leave.log").read_text()
    assert guest.run("verify").returncode == 0


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"mqtt_host": "broker.example"}, "MQTT_HOST is broker.example, which needs BROKER=external"),
        ({"mqtt_login": "anonymous"}, "MQTT_LOGIN is anonymous, which needs BROKER=external"),
        ({"mqtt_transport": "websockets"}, "MQTT_TRANSPORT is websockets, which needs BROKER=external"),
        ({"mqtt_consumer_client_id": "mine"}, "MQTT_CONSUMER_CLIENT_ID is mine, which needs BROKER=external"),
        (
            {"broker": "external", "mqtt_tls": True, "mqtt_client_certificates": True},
            "MQTT_CLIENT_CERTIFICATES is 1, which needs BROKER=mosquitto; see MQTT_CERTIFICATE_FILE",
        ),
    ],
)
def test_what_does_not_go_together_is_one_line(given: dict[str, object], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        Settings(_env_file=None, **given)  # pyright: ignore[reportCallIssue] (as pydantic-settings takes them)
