"""Code that people copy loses nothing: the template's services and the worker of the docs, under the consumer's faults.

Each test compares the readings that the broker has acknowledged to the publisher with those that arrived: at echo or on
the output topic.
"""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import copier
import paho.mqtt.client as mqtt
import pytest
from copier.errors import DirtyLocalWarning
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from test_template import clean, installed

from harness import Stack, eventually, reading
from stack.part import answers, local_url
from stack.settings import ROOT

# These tests start brokers and services, and keep them busy.
pytestmark = pytest.mark.stack

TOPIC = "sensors/{}/reading"
# The broker has no topic for another service; the operator may write to this one.
OUTPUT_TOPIC = TOPIC.format("dead-letter/sensors/output").removeprefix("sensors/")
MALFORMED = [b"", b"null", b"{}", b'"text"', b"[null]", bytes(range(256)), b"[" * 5000, b"x" * 60_000]


@contextmanager
def client(stack: Stack, user: str, name: str) -> Iterator[mqtt.Client]:
    """A client of the test, which reconnects to its session after an outage of the broker."""
    made = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5)
    made.username_pw_set(user, f"{user}-secret")
    made.reconnect_delay_set(max_delay=1)
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 3600
    made.connect("127.0.0.1", stack.settings.mqtt_port, clean_start=False, properties=properties)
    made.loop_start()
    yield made
    made.disconnect()
    made.loop_stop()


class Echo:
    """Echo as a process of this test; it notes the readings that it processes."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self._url = local_url(stack.settings.echo_port, "/healthz")
        self._taken, self._log = folder / "taken", folder / "echo.log"
        self._taken.touch()
        self._environment = clean(
            PYTHONPATH=str(ROOT / "tests" / "receiving"),
            TAKEN_FILE=str(self._taken),
            ECHO_PORT=str(stack.settings.echo_port),
            OTEL_SERVICE_NAME="echo",
            OTEL_SDK_DISABLED="true",
        )

    def start(self) -> None:
        with self._log.open("a") as log:
            command = [sys.executable, "-m", "echo"]
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        eventually(answers(self._url))

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)

    def taken(self) -> Counter[str]:
        lines = [line.split() for line in self._taken.read_text().splitlines()]
        return Counter(identifier for identifier, *_, which in lines if which == "first")


@dataclass
class Copy:
    """A copied service between the broker and echo, or another topic."""

    command: list[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("a") as log:
            self.process = subprocess.Popen(self.command, env=self.environment, stdout=log, stderr=log)

    def end(self, sign: signal.Signals) -> None:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()[-2000:]
        self.process.send_signal(sign)
        assert self.process.wait(20) == (0 if sign == signal.SIGTERM else -sign)

    def ensure(self) -> None:
        """Starts it unless it runs; a failed test may have left it running or not."""
        if self.process is None or self.process.poll() is not None:
            self.start()

    def close(self) -> None:
        """Ends it if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)


class Bench:
    """A broker, a copied service and its receiver, with what was sent and what arrived."""

    def __init__(
        self,
        stack: Stack,
        copy: Copy,
        echo: Echo,
        publisher: mqtt.Client,
        taken: Callable[[], Counter[str]],
        dead: list[bytes],
    ) -> None:
        self.stack, self.copy, self.echo = stack, copy, echo
        self.taken = taken
        self._dead = dead
        self._publisher = publisher
        self._sent: list[str] = []

    def hand_over(self, count: int) -> list[mqtt.MQTTMessageInfo]:
        """Gives paho readings of ten devices to publish."""
        infos: list[mqtt.MQTTMessageInfo] = []
        for number in range(count):
            sent = reading(device_id=f"sensor-{number % 10:03}", sequence=number)
            self._sent.append(str(sent["message_id"]))
            infos.append(self._publisher.publish(TOPIC.format(sent["device_id"]), json.dumps(sent), qos=1))
        return infos

    def acknowledged(self, infos: list[mqtt.MQTTMessageInfo]) -> None:
        """Waits until the broker has acknowledged them."""
        for info in infos:
            # Without a connection, paho keeps it for the next one; that is not a failure.
            if info.rc == mqtt.MQTT_ERR_NO_CONN:
                info.rc = mqtt.MQTT_ERR_SUCCESS
            info.wait_for_publish(60)
            assert info.is_published()

    def send(self, count: int) -> None:
        self.acknowledged(self.hand_over(count))

    def send_malformed(self, payload: bytes) -> None:
        self.acknowledged([self._publisher.publish(TOPIC.format("malformed"), payload, qos=1)])

    def begin(self) -> None:
        """Resets the counts."""
        self._sent.clear()
        self._dead.clear()

    def lost(self) -> set[str]:
        return set(self._sent) - self.taken().keys()

    def twice(self) -> int:
        taken = self.taken()
        return sum(taken[identifier] > 1 for identifier in self._sent)

    def dead_letters(self) -> Counter[bytes]:
        return Counter(self._dead)

    def settle(self) -> None:
        """Waits until everything that was sent has arrived."""
        try:
            eventually(lambda: not self.lost(), 60)
        finally:
            count = f"acknowledged {len(self._sent)}, taken {len(self._sent) - len(self.lost())}, twice {self.twice()}"
            print(f"{count}, dead letters {len(self._dead)}, lost {len(self.lost())}")


def worker(stack: Stack, folder: Path) -> tuple[list[str], dict[str, str]]:
    """The worker of the docs."""
    return [sys.executable, str(ROOT / "docs" / "examples" / "worker.py")], {}


def service(output: str) -> Callable[[Stack, Path], tuple[list[str], dict[str, str]]]:
    """A service of the template, as a separate project."""

    def make(stack: Stack, folder: Path) -> tuple[list[str], dict[str, str]]:
        name = f"{output}-relay"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DirtyLocalWarning)
            made = {"name": name, "output": output}
            copier.run_copy(str(ROOT), folder / name, made, vcs_ref="HEAD", defaults=True, quiet=True)
        upper = name.upper().replace("-", "_")
        return [sys.executable, "-m", name.replace("-", "_")], {
            "PYTHONPATH": str(installed(folder / "installed", folder / name)),
            f"MQTT_{upper}_USERNAME": "operator",
            f"MQTT_{upper}_PASSWORD": "operator-secret",
            f"{upper}_URL": local_url(stack.settings.echo_port, "/echo"),
            f"{upper}_OUTPUT_TOPIC": OUTPUT_TOPIC,
            "HEALTH_FILE": str(folder / "healthy"),
        }

    return make


@pytest.fixture(scope="module")
def quiet_stack() -> Iterator[Stack]:
    """A stack whose own services stay silent."""
    stack = Stack(Path(tempfile.mkdtemp(prefix="mqtt-tracing-test-")), DEVICES="1", INTERVAL_SECONDS="86400")
    stack.up()
    stack.stop_part("consumer")
    stack.stop_part("echo")
    yield stack
    stack.runtime.down()
    shutil.rmtree(stack.settings.run_dir)


COPIES = {"template-http": service("http"), "template-mqtt": service("mqtt"), "worker": worker}


@pytest.fixture(scope="module", params=COPIES)
def running(
    request: pytest.FixtureRequest, quiet_stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    """One of the copied services, subscribed."""
    stack, folder = quiet_stack, tmp_path_factory.mktemp(request.param)
    command, variables = COPIES[request.param](stack, folder)
    ports = {"MQTT_PORT": str(stack.settings.mqtt_port), "ECHO_PORT": str(stack.settings.echo_port)}
    copy = Copy(command, clean(**ports, **variables, OTEL_SDK_DISABLED="true"), folder / "log")
    echo, dead, published = Echo(stack, folder), list[bytes](), list[str]()
    subscribed = threading.Event()

    def on_message(client: mqtt.Client, userdata: None, message: mqtt.MQTTMessage) -> None:
        if message.topic == OUTPUT_TOPIC:
            published.append(json.loads(message.payload)["message_id"])
        else:
            dead.append(bytes(message.payload))

    echo.start()
    copy.start()
    try:
        with (
            client(stack, "operator", f"{request.param}-publisher") as publisher,
            client(stack, "operator", f"{request.param}-onlooker") as onlooker,
        ):
            onlooker.on_message = on_message
            onlooker.on_subscribe = lambda *_: subscribed.set()
            onlooker.subscribe("dead-letter/#", qos=1)
            assert subscribed.wait(10)
            taken = (lambda: Counter(published)) if request.param == "template-mqtt" else echo.taken
            bench = Bench(stack, copy, echo, publisher, taken, dead)
            # Before its session exists, the broker keeps nothing for it.
            eventually(lambda: bench.send(1) or bench.taken())
            yield bench
    finally:
        copy.close()
        echo.stop()


@pytest.fixture
def bench(running: Bench) -> Bench:
    running.copy.ensure()
    running.begin()
    return running


@pytest.fixture
def echo(bench: Bench, request: pytest.FixtureRequest) -> Echo:
    if "template-mqtt" in request.node.callspec.id:
        pytest.skip("this one has nothing to do with echo")
    return bench.echo


def outage(long_seconds: int) -> pytest.MarkDecorator:
    """A short outage and a realistic one; both last longer than the first pauses between attempts."""
    return pytest.mark.parametrize("seconds", [3, pytest.param(long_seconds, marks=pytest.mark.long)])


@outage(15)
def test_echo_is_down_with_500_readings_under_way(bench: Bench, echo: Echo, seconds: int) -> None:
    echo.stop()
    bench.send(500)
    time.sleep(seconds)  # the outage
    echo.start()
    bench.settle()
    assert not bench.dead_letters()


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM], ids=lambda sign: sign.name)
def test_it_is_ended_with_500_readings_queued(bench: Bench, sign: signal.Signals) -> None:
    left = tries = 0
    # Tries again if the service finished before the signal reached it.
    while not left and tries < 10:
        tries += 1
        bench.copy.end(signal.SIGTERM)
        bench.send(500)
        bench.copy.start()
        eventually(lambda: len(bench.lost()) < 500)
        bench.copy.end(sign)
        left = len(bench.lost())
        bench.copy.start()
    assert left
    bench.settle()
    # After SIGTERM it acknowledges what it has processed; after SIGKILL it cannot.
    assert bench.twice() <= (0 if sign == signal.SIGTERM else 100 * tries)


def test_500_readings_arrive_while_it_is_away(bench: Bench) -> None:
    bench.copy.end(signal.SIGTERM)
    bench.send(500)
    bench.copy.start()
    bench.settle()
    assert bench.twice() == 0


@outage(10)
def test_the_broker_is_away_with_500_readings_under_way(bench: Bench, seconds: int) -> None:
    infos = bench.hand_over(250)
    bench.stack.stop_part("mosquitto")
    infos += bench.hand_over(250)
    time.sleep(seconds)  # the outage
    bench.stack.start_part("mosquitto")
    bench.acknowledged(infos)
    bench.settle()
    assert not bench.dead_letters()


def test_what_is_malformed_becomes_a_dead_letter_and_holds_up_nothing(bench: Bench, echo: Echo) -> None:
    for payload in MALFORMED:
        bench.send_malformed(payload)
        bench.send(5)
    bench.settle()
    eventually(lambda: bench.dead_letters().keys() == set(MALFORMED))
    assert bench.dead_letters() == Counter(MALFORMED)
