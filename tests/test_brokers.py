"""Our consumer and our producer with other brokers; ``make test-brokers``.

Each test checks the same with each broker. If a broker lacks a feature, the service must report it: the test asserts
that instead of skipping. The results become docs/brokers.md.
"""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Self

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from brokers.launcher import BROKERS, LOGIN, PASSWORD, USER, Running, missing
from harness import eventually, free_ports, is_whole, reading
from ledger import PROCESSED, QUIET, NewStack, NotingStack, user_properties
from mqtt_delivery import received_properties
from service.partitions import reading_topic
from stack.part import beats

Record = Callable[[str, object], None]
# A consumer that hears nothing from its broker stops touching its health file after 15 s; this is noticed 10 s later.
IDLE_SECONDS = [30, pytest.param(90, marks=pytest.mark.brokers)]
NOBODY = "nobody/is/subscribed"

pytestmark = pytest.mark.timeout(900)
received_properties.use_for_paho()


class Service:
    """The consumer or the producer as a process of the test, with any broker.

    Args:
        stack: The stack that gets its telemetry and its readings.
        name: The name of the service.
        port: The port of the broker.
        arguments: Its command line.
        values: More settings.
    """

    def __init__(self, stack: NotingStack, name: str, port: int, *arguments: str, **values: str) -> None:
        described = json.loads((stack.settings.run_dir / "parts" / f"{name}.json").read_text())
        folder = Path(tempfile.mkdtemp(dir=stack.settings.run_dir))
        heartbeat = folder / "healthy"
        self.healthy = beats(heartbeat)
        self._log = folder / "log"
        environment = {**described["environment"], **LOGIN, "MQTT_PORT": str(port), "HEALTH_FILE": str(heartbeat)}
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                [*described["command"], *arguments], env={**environment, **values}, stdout=output, stderr=output
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def processed(self) -> list[str]:
        """The ids of the readings that it has processed, according to its log."""
        return PROCESSED.findall(self.log)

    def stop(self, seconds: float = 20) -> int:
        """Stops it as an ordinary deploy does; returns the exit code."""
        self.process.terminate()
        return self.process.wait(seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.process.kill()
        self.process.wait(20)
        if kind is not None:
            print(f"{self.process.args!r}:\n{self.log}")


def consumer(stack: NotingStack, broker: Running, device: str, name: str = "", **values: str) -> Service:
    """Runs a consumer of one device's readings, with its own session."""
    known = {"MQTT_CLIENT_ID": name or device, "TOPIC_FILTER": f"sensors/{device}/reading"}
    return Service(stack, "consumer", broker.port, **{**known, **values, **broker.broker.consumer})


@contextmanager
def client(port: int, name: str = "", **properties: int) -> Iterator[tuple[mqtt.Client, Properties]]:
    """A connected client of raw paho, and the properties of the broker's CONNACK."""
    made = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5)
    made.username_pw_set(USER, PASSWORD)
    made.max_inflight_messages_set(10)
    answers: list[Properties] = []
    made.on_connect = lambda _client, _userdata, _flags, _code, answer: answers.append(
        answer or Properties(PacketTypes.CONNACK)
    )
    wanted = Properties(PacketTypes.CONNECT)
    for key, value in properties.items():
        setattr(wanted, key, value)
    made.connect("127.0.0.1", port, clean_start=True, properties=wanted)
    made.loop_start()
    try:
        yield made, eventually(lambda: answers)[0]
    finally:
        made.disconnect()
        made.loop_stop()


def publish(port: int, device: str, count: int) -> set[str]:
    """Publishes readings of a device, each acknowledged by the broker; returns their ids."""
    sent = [reading(device_id=device, sequence=number) for number in range(count)]
    with client(port) as (publisher, _):
        infos = [publisher.publish(f"sensors/{device}/reading", json.dumps(each), qos=1) for each in sent]
        for info in infos:
            info.wait_for_publish(30)
            assert info.is_published()
    return {str(each["message_id"]) for each in sent}


def taken(stack: NotingStack) -> set[str]:
    """The ids of the readings that echo has processed."""
    return {line.split()[0] for line in stack.taken.read_text().splitlines()}


def all_taken(stack: NotingStack, sent: set[str], seconds: float = 60) -> None:
    """Waits until no reading is missing."""
    eventually(lambda: sent <= taken(stack), seconds)


class Idle:
    """An idle service, and the time since which it is idle."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.began = 0.0
        self.unhealthy = ""
        self._stopped = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()

    def _look(self) -> None:
        while not self._stopped.wait(0.5):
            healthy = self.service.healthy() and self.service.process.poll() is None
            if not self.began and healthy:
                self.began = time.monotonic()
            elif self.began and not healthy and not self.unhealthy:
                self.unhealthy = f"after {time.monotonic() - self.began:.0f} s"

    def close(self) -> None:
        self._stopped.set()
        self._watch.join()


@pytest.fixture(scope="module")
def services(new_shared_stack: NewStack) -> NotingStack:
    """A stack without a broker and without MQTT clients."""
    stack = new_shared_stack(NotingStack, **QUIET)
    stack.up()
    for part in ("producer", "consumer", "mosquitto"):
        stack.stop_part(part)
    return stack


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[] if kind.quick else pytest.mark.brokers) for name, kind in BROKERS.items()],
)
def broker(request: pytest.FixtureRequest, services: NotingStack) -> Iterator[Running]:
    """A running broker."""
    kind = BROKERS[request.param]
    if why := missing(kind):
        pytest.skip(why)
    with kind.running(Path(tempfile.mkdtemp(dir=services.settings.run_dir))) as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def idle(services: NotingStack, broker: Running) -> Iterator[Idle]:
    """An idle service while the other tests run; the last test examines it."""
    with consumer(services, broker, "idle") as service, closing(Idle(service)) as waiting:
        yield waiting


# Properties of a CONNACK, and the meaning of their absence (MQTT 5.0, 3.2.2.3).
ANNOUNCED = {
    "ReceiveMaximum": 65_535,
    "MaximumQoS": 2,
    "RetainAvailable": 1,
    "MaximumPacketSize": None,
    "SharedSubscriptionAvailable": 1,
    "ServerKeepAlive": None,
    "SessionExpiryInterval": None,
}


def test_a_broker_says_what_it_has(broker: Running, record_property: Record) -> None:
    record_property("version", broker.broker.version)
    with client(broker.port, SessionExpiryInterval=3600) as (publisher, announced):
        for name, meant in ANNOUNCED.items():
            record_property(name, getattr(announced, name, meant))
        assert bool(getattr(announced, "SharedSubscriptionAvailable", 1)) == broker.broker.shares
        codes: list[ReasonCode] = []
        publisher.on_publish = lambda _client, _userdata, _mid, code, _properties: codes.append(code)
        publisher.publish(NOBODY, b"", qos=1)
        record_property("Nobody", f"0x{eventually(lambda: codes)[0].value:02x}")


def test_one_reading_is_one_connected_trace(broker: Running, services: NotingStack) -> None:
    with consumer(services, broker, "+", "traced") as receiver:
        eventually(receiver.healthy)
        with Service(services, "producer", broker.port, "--once") as producer:
            assert producer.process.wait(30) == 0, producer.log
        # The consumer exports its spans before it exits.
        assert receiver.stop() == 0
        trace_id = next(json.loads(line)["trace_id"] for line in producer.log.splitlines() if line.startswith("{"))
        eventually(lambda: len(spans := services.viewer.trace(trace_id)) >= 4 and is_whole(spans))


PAIRS = [
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03"),
    ("tracestate", "vendor=1,other=2"),
    ("tracestate", "third=3"),
    ("Traceparent", "wrong case"),
    ("baggage", "key=%C3%BC;property, second = x "),
    ("", "no name"),
    ("no value", ""),
    ("ü\U0001f600", "\ufeffmark\u2028line"),
    ("long", "x" * 10_000),
    ("traceparent", "again"),
]


def test_user_properties_arrive_as_they_were_sent(broker: Running) -> None:
    sent = Properties(PacketTypes.PUBLISH)
    sent.UserProperty = PAIRS
    received: list[mqtt.MQTTMessage] = []
    subscribed = threading.Event()
    # From one node to another, if there is more than one.
    with client(broker.ports[-1]) as (subscriber, _), client(broker.ports[0]) as (publisher, _):
        subscriber.on_message = lambda _client, _userdata, message: received.append(message)
        subscriber.on_subscribe = lambda *_: subscribed.set()
        subscriber.subscribe("properties/+", qos=1)
        assert subscribed.wait(10)

        def arrived() -> bool:
            # In a cluster it takes a while until the other nodes know of a subscription.
            publisher.publish("properties/test", bytes(range(256)), qos=1, properties=sent).wait_for_publish(10)
            with suppress(pytest.fail.Exception):
                eventually(lambda: received, 2)
            return bool(received)

        eventually(arrived)
    assert bytes(received[0].payload) == bytes(range(256))
    assert user_properties(received[0]) == PAIRS


def test_a_consumer_that_is_killed_with_200_queued_loses_none(broker: Running, services: NotingStack) -> None:
    with consumer(services, broker, "killed") as killed:
        eventually(killed.healthy)
        os.kill(killed.process.pid, signal.SIGSTOP)
        sent = publish(broker.port, "killed", 200)
        os.kill(killed.process.pid, signal.SIGCONT)
        eventually(lambda: killed.processed)
    assert not sent <= set(killed.processed), "it had done all of it before it was killed"
    # And some while it is away.
    sent |= publish(broker.port, "killed", 50)
    with consumer(services, broker, "killed") as again:
        all_taken(services, sent)
        assert again.stop() == 0


def test_a_partition_keeps_its_order_when_it_changes_hands(
    broker: Running, services: NotingStack, record_property: Record
) -> None:
    owner = {"PARTITIONS": "1", "MQTT_CLIENT_ID": "moved-p{partition}"}
    devices = [f"moved-{number}" for number in range(5)]
    sent: dict[str, str] = {}
    stop = threading.Event()

    def publish_until_told() -> None:
        with client(broker.port) as (publisher, _):
            number = 0
            while not stop.wait(0.05):
                infos: list[mqtt.MQTTMessageInfo] = []
                for device in devices:
                    each = reading(device_id=device, sequence=number)
                    sent[str(each["message_id"])] = device
                    infos.append(publisher.publish(reading_topic(device, 1), json.dumps(each), qos=1))
                number += 1
                for info in infos:
                    info.wait_for_publish(30)

    publishing = threading.Thread(target=publish_until_told)
    with consumer(services, broker, "moved", **owner) as first:
        eventually(first.healthy)
        publishing.start()
        try:
            eventually(lambda: first.processed)
            # Both want it, as during an update.
            with consumer(services, broker, "moved", **owner) as second:
                eventually(lambda: second.processed)
                before = len(first.processed)
                eventually(lambda: len(first.processed) > before + 10)
                before = len(second.processed)
                eventually(lambda: len(second.processed) > before + 10)
            # Killed, and away for good.
            before = len(first.processed)
            eventually(lambda: len(first.processed) > before + 100)
        finally:
            stop.set()
            publishing.join()
        all_taken(services, set(sent))
    if not broker.broker.hands_over:
        record_property("lacks", "order")
        return
    arrivals: dict[str, list[int]] = {device: [] for device in devices}
    for message_id, _, number, which in map(str.split, services.taken.read_text().splitlines()):
        if message_id in sent and which == "first":
            arrivals[sent[message_id]].append(int(number))
    assert arrivals == {device: list(range(len(sent) // len(devices))) for device in devices}


def test_two_consumers_share_and_one_leaves(broker: Running, services: NotingStack, record_property: Record) -> None:
    sharing = {"CONSUMERS": "2", "SHARE_NAME": "two", "QUEUE_SIZE": "10"}
    if not broker.broker.shares:
        with consumer(services, broker, "shared", **sharing) as refused:
            eventually(lambda: "shared subscriptions, which the broker does not have" in refused.log)
            assert not refused.healthy()
        record_property("lacks", "share")
        return
    with (
        consumer(services, broker, "shared", "shared-1", **sharing) as first,
        consumer(services, broker, "shared", "shared-2", MQTT_PORT=str(broker.ports[-1]), **sharing) as second,
    ):
        eventually(lambda: first.healthy() and second.healthy())
        # Some brokers give one consumer as much as it accepts before another gets anything.
        os.kill(second.process.pid, signal.SIGSTOP)
        sent = publish(broker.port, "shared", 100)
        eventually(lambda: first.processed)
        os.kill(first.process.pid, signal.SIGSTOP)
        os.kill(second.process.pid, signal.SIGCONT)
        sent |= publish(broker.port, "shared", 100)
        eventually(lambda: second.processed)
        os.kill(first.process.pid, signal.SIGCONT)
        all_taken(services, sent)
        # They log a reading after echo has it.
        eventually(lambda: len(first.processed) + len(second.processed) >= 200)
        # Readings in flight to a silent consumer may go to the other; without a share each would have all of them.
        assert len(first.processed) + len(second.processed) <= 220
        assert second.stop() == 0
        # The broker may still give readings to the session of the stopped consumer.
        sent |= publish(broker.port, "shared", 100)
        leaving = Service(
            services,
            "consumer",
            broker.ports[-1],
            "--leave",
            "shared-2",
            TOPIC_FILTER="sensors/shared/reading",
            **sharing,
        )
        with leaving:
            assert leaving.process.wait(60) == int(not broker.broker.leaves), leaving.log
        if not broker.broker.leaves:
            assert "the session of shared-2 goes on, with what it holds" in leaving.log
            record_property("lacks", "leave")
            with consumer(services, broker, "shared", "shared-2", **sharing):
                all_taken(services, sent)
            return
        sent |= publish(broker.port, "shared", 50)
        all_taken(services, sent)


class Link:
    """A proxy to a port that cuts the connection after so many bytes, at most three times.

    Attributes:
        port: The port on which it listens.
        connections: The number of connections so far.
    """

    CUTS = 3

    def __init__(self, target: int, cut_after_bytes: int) -> None:
        (self.port,) = free_ports(1)
        self.connections = 0
        self._target = target
        self._cuts = [number * cut_after_bytes for number in range(1, self.CUTS + 1)]
        self._sent = 0
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()
        self._cut()

    def _cut(self) -> None:
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self.connections += 1
                self._open += [near, far]
                threading.Thread(target=self._pass, args=(near, far, self._count), daemon=True).start()
                threading.Thread(target=self._pass, args=(far, near, lambda _: None), daemon=True).start()

    def _count(self, sent: int) -> None:
        self._sent += sent
        if self._cuts and self._sent >= self._cuts[0]:
            del self._cuts[0]
            self._cut()

    @staticmethod
    def _pass(source: socket.socket, sink: socket.socket, count: Callable[[int], None]) -> None:
        with suppress(OSError):
            while data := source.recv(4096):
                sink.sendall(data)
                count(len(data))
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def kept(file: Path) -> set[str]:
    """The readings in a producer's buffer."""
    with closing(sqlite3.connect(file)) as database:
        return {json.loads(payload)["message_id"] for (payload,) in database.execute("SELECT payload FROM message")}


def test_a_backlog_of_1000_goes_through_the_brokers_receive_maximum(
    broker: Running, services: NotingStack, tmp_path: Path
) -> None:
    buffer = {"BUFFER_FILE": str(tmp_path / "readings.db")}
    (nobody,) = free_ports(1)
    many = {"DEVICES": "1000", "INTERVAL_SECONDS": "1", "BUFFER_SIZE": "1000"}
    with Service(services, "producer", nobody, **many, **buffer) as offline:
        eventually(lambda: "the buffer is full" in offline.log)
        offline.stop()
    sent = kept(tmp_path / "readings.db")
    assert len(sent) == 1000
    with consumer(services, broker, "+", "backlog") as receiver, closing(Link(broker.port, 80_000)) as link:
        eventually(receiver.healthy)
        with Service(services, "producer", link.port, **QUIET, **buffer) as producer:
            all_taken(services, sent)
            assert producer.stop() == 0, producer.log
    assert kept(tmp_path / "readings.db") == set()
    assert link.connections == 1 + Link.CUTS, producer.log + broker.log.read_text()[-3000:]


def test_a_session_that_the_broker_has_lost_is_said(broker: Running, services: NotingStack) -> None:
    with consumer(services, broker, "lost") as receiver:
        eventually(receiver.healthy)
        # Another client with that client id takes over the session and discards it.
        with client(broker.port, "lost"):
            pass
        eventually(lambda: "the broker has lost the session" in receiver.log)
        eventually(lambda: receiver.log.count("subscribed to") == 2)
        all_taken(services, publish(broker.port, "lost", 10))


@pytest.mark.parametrize("seconds", IDLE_SECONDS)
def test_who_has_nothing_to_do_is_healthy(broker: Running, idle: Idle, seconds: int) -> None:
    eventually(lambda: idle.began)
    eventually(lambda: idle.unhealthy or time.monotonic() > idle.began + seconds, seconds + 5)
    assert not idle.unhealthy, idle.service.log
