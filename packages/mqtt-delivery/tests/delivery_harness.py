"""Shared by the tests: a Mosquitto of their own, clients for it, and handlers that record their messages."""

import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import paho.mqtt.client as mqtt
import pytest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from harness import free_ports
from mqtt_delivery import Consumer, Message

Result = TypeVar("Result")
TIMEOUT_SECONDS = 40.0


def eventually(look: Callable[[], Result], seconds: float = TIMEOUT_SECONDS) -> Result:
    """Calls ``look`` until its result is true, and returns that; fails with the last result."""
    pause = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if seen := look():
            return seen
        pause.wait(0.02)
    pytest.fail(f"not seen within {seconds} s; last: {look()!r}")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Broker:
    """A Mosquitto that a test can stop, start again, and configure in between.

    It refuses messages below ``forbidden/``, and those that a test denies.
    """

    def __init__(self, folder: Path) -> None:
        # The system gives this port to nobody else while the broker is stopped.
        (self.port,) = free_ports(1)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.settings = ["max_queued_messages 100000"]
        self.deny("forbidden/#")

    def deny(self, topic_filter: str) -> None:
        """Denies a topic filter from the next start on."""
        (self._folder / "acl").write_text(f"topic readwrite #\ntopic deny {topic_filter}\n")

    def start(self) -> None:
        lines = [
            "user root",
            *(["allow_anonymous true"] if "allow_anonymous false" not in self.settings else []),
            f"log_dest file {self._folder}/log",
            "persistence true",
            f"persistence_location {self._folder}/",
            f"acl_file {self._folder}/acl",
            f"listener {self.port} 127.0.0.1",
            *self.settings,
        ]
        (self._folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
        self._process = started = subprocess.Popen(["mosquitto", "-c", str(self._folder / "mosquitto.conf")])
        eventually(lambda: listens(self.port) or started.poll() is not None)
        assert started.poll() is None, self.log()

    def stop(self, forget: bool = False) -> None:
        """Stops it in the ordinary way; it keeps its sessions unless ``forget`` is set."""
        assert self._process is not None
        for _ in range(15):
            self._process.terminate()
            # It misses a signal that comes while it starts.
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(2)
                break
        if forget:
            (self._folder / "mosquitto.db").unlink(missing_ok=True)

    def log(self) -> str:
        return (self._folder / "log").read_text()

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def __enter__(self) -> "Broker":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)


def new_client(
    client_id: str = "", protocol: MQTTProtocolVersion = mqtt.MQTTv5, clean_session: bool | None = None
) -> mqtt.Client:
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id, clean_session, protocol=protocol)
    client.reconnect_delay_set(0, 1)
    return client


@contextmanager
def connected(broker: Broker, *subscriptions: str) -> Iterator[tuple[mqtt.Client, list[mqtt.MQTTMessage]]]:
    """A plain paho client, and the messages that it receives."""
    client = new_client()
    received: list[mqtt.MQTTMessage] = []
    ready = threading.Event()

    def on_connect(*_: object) -> None:
        if subscriptions:
            client.subscribe([(topic, 1) for topic in subscriptions])
        else:
            ready.set()

    client.on_connect = on_connect
    client.on_subscribe = lambda *_: ready.set()
    client.on_message = lambda _client, _userdata, message: received.append(message)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    assert ready.wait(TIMEOUT_SECONDS)
    yield client, received
    client.disconnect()
    client.loop_stop()


def publish(client: mqtt.Client, topic: str, *payloads: bytes, properties: Properties | None = None) -> None:
    """Publishes messages, and returns when the broker has acknowledged them."""
    infos = [client.publish(topic, payload, qos=1, properties=properties) for payload in payloads]
    for info in infos:
        info.wait_for_publish(TIMEOUT_SECONDS)
        assert info.is_published()


class Handled:
    """A handler that records its messages, and calls a function of the test with each."""

    def __init__(self, does: Callable[[Message], object] = lambda message: None) -> None:
        self.does = does
        self.begun: list[Message] = []
        self.messages: list[Message] = []
        self._lock = threading.Lock()

    def __call__(self, message: Message) -> None:
        with self._lock:
            self.begun.append(message)
        self.does(message)
        with self._lock:
            self.messages.append(message)

    @property
    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.messages]


@contextmanager
def consuming(
    broker: Broker,
    topic: str,
    handle: Callable[[Message], object],
    client_id: str = "",
    port: int | None = None,
    **options: object,
) -> Iterator[Consumer]:
    """A consumer that stays subscribed until the block ends."""
    client = new_client(client_id or f"consumer-{uuid4().hex}")
    consumer = Consumer(client, topic, handle, **options)  # pyright: ignore[reportArgumentType] (options of a test)
    consumer.connect("127.0.0.1", port or broker.port)
    eventually(lambda: consumer.healthy)
    yield consumer
    consumer.stop()


class Between:
    """A proxy between a client and a broker, which can change the bytes that the broker sends."""

    def __init__(self, port: int, change: Callable[[bytes], bytes]) -> None:
        self._broker = port
        self._change = change
        self.active = True
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._broker))
            threading.Thread(target=self._pass_on, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pass_on, args=(server, client, True), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, change: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(self._change(data) if change and self.active else data)
        for connection in (source, target):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def between(port: int, change: Callable[[bytes], bytes]) -> Iterator[Between]:
    made = Between(port, change)
    yield made
    made.close()


def saying(**properties: object) -> Callable[[bytes], bytes]:
    """Adds properties to a broker's CONNACK, which comes first and alone."""

    def change(data: bytes) -> bytes:
        if data[0] != 0x20:
            return data
        said, _ = Properties(PacketTypes.CONNACK).unpack(data[4:])
        for name, value in properties.items():
            setattr(said, name, value)
        packed = bytes(said.pack())
        return bytes([0x20, 2 + len(packed)]) + data[2:4] + packed

    return change


def values(reader: InMemoryMetricReader) -> dict[str, list[float]]:
    """The values of each metric; the sums for a histogram."""
    data = reader.get_metrics_data()
    assert data is not None
    return {
        metric.name: [getattr(point, "value", getattr(point, "sum", 0)) for point in metric.data.data_points]
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def user_properties(message: mqtt.MQTTMessage) -> dict[str, str]:
    return dict(getattr(message.properties, "UserProperty", []))
