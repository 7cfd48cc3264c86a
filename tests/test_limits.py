"""Limits for one client of the broker: each is a setting, and the broker logs what it refuses."""

import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from harness import Stack, eventually, free_ports
from stack.build import search_path
from stack.settings import ROOT

TOPIC = "sensors/sensor-001/reading"


class Broker:
    """Mosquitto as ``start.sh`` starts it, without the rest of the stack."""

    def __init__(self, folder: Path, **values: str) -> None:
        (self.port,) = free_ports(1)
        self._log = folder / "log"
        users = {name: name.lower() for name in ("PRODUCER", "CONSUMER", "OPERATOR")}
        environment = {
            "PATH": search_path(),
            "MQTT_PORT": str(self.port),
            "MOSQUITTO_STATE": str(folder / "state"),
            "MOSQUITTO_DATA": str(folder / "data"),
            **{f"MQTT_{name}_USERNAME": user for name, user in users.items()},
            **{f"MQTT_{name}_PASSWORD": f"{user}-secret" for name, user in users.items()},
            **values,
        }
        with self._log.open("w") as log:
            self._process = subprocess.Popen([ROOT / "mosquitto" / "start.sh"], env=environment, stdout=log, stderr=log)
        eventually(lambda: " running" in self.log)

    @property
    def log(self) -> str:
        """Its log so far."""
        return self._log.read_text()

    def connect(self) -> socket.socket:
        """A TCP connection that has not sent anything yet."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    @contextmanager
    def client(self, user: str, client_id: str = "", received: list[bytes] | None = None) -> Iterator[mqtt.Client]:
        """A connected client of raw paho; with a client id, its session persists."""
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5)
        client.username_pw_set(user, f"{user}-secret")
        answered: list[ReasonCode] = []
        client.on_connect = lambda *arguments: answered.append(arguments[3])
        client.on_message = lambda *arguments: None if received is None else received.append(arguments[2].payload)
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600 if client_id else 0
        client.connect("127.0.0.1", self.port, clean_start=False, properties=properties)
        client.loop_start()
        eventually(lambda: answered)
        yield client
        client.disconnect()
        client.loop_stop()

    def close(self) -> None:
        """Ends the broker."""
        self._process.terminate()
        self._process.wait(10)


NewBroker = Callable[..., Broker]


@pytest.fixture
def new_broker(tmp_path: Path) -> Iterator[NewBroker]:
    """Makes brokers, and ends them after the test."""
    made: list[Broker] = []

    def make(**values: str) -> Broker:
        made.append(Broker(tmp_path, **values))
        return made[-1]

    yield make
    for broker in made:
        broker.close()


def bytes_taken(connection: socket.socket, of: int) -> int:
    """The number of bytes that the other side accepts before it closes."""
    sent, chunk = 0, bytes(65_536)
    with suppress(ConnectionError):
        while sent < of:
            sent += connection.send(chunk)
    return sent


def remaining_length(value: int) -> bytes:
    """Encodes a length as a Variable Byte Integer (MQTT 5.0, 1.5.5)."""
    encoded = b""
    while value >= 128:
        encoded += bytes([value % 128 | 128])
        value //= 128
    return encoded + bytes([value])


def test_a_huge_connect_of_a_stranger_is_refused_early(new_broker: NewBroker) -> None:
    broker = new_broker()
    with broker.connect() as connection:
        connection.sendall(b"\x10" + remaining_length(100_000_000))
        assert bytes_taken(connection, 100_000_000) < 10_000_000  # what fits into the sockets' buffers
    eventually(lambda: "disconnected" in broker.log)


@contextmanager
def published(client: mqtt.Client, size: int) -> Iterator[tuple[list[ReasonCode], list[ReasonCode]]]:
    """Publishes a packet of so many bytes; yields the broker's acknowledgements and disconnections."""
    acknowledged: list[ReasonCode] = []
    disconnected: list[ReasonCode] = []
    client.on_publish = lambda *arguments: acknowledged.append(arguments[3])
    client.on_disconnect = lambda *arguments: disconnected.append(arguments[3])
    # The packet type (1 byte), the remaining length, the topic with its length, the packet id, and no properties.
    header = 1 + len(remaining_length(size)) + 2 + len(TOPIC) + 2 + 1
    client.publish(TOPIC, bytes(size - header), qos=1)
    eventually(lambda: acknowledged or disconnected)
    yield acknowledged, disconnected


@pytest.mark.parametrize("limit", [1024, 65_536, 100_000])
def test_a_packet_is_as_large_as_it_may_be_and_no_larger(new_broker: NewBroker, limit: int) -> None:
    broker = new_broker(MQTT_MAX_PACKET_SIZE=str(limit))
    with broker.client("operator") as client, published(client, limit - 3) as (acknowledged, disconnected):
        assert acknowledged, disconnected
    with broker.client("operator") as client, published(client, limit + 4) as (acknowledged, disconnected):
        assert disconnected, acknowledged


def test_more_connections_than_there_may_be_are_refused(new_broker: NewBroker) -> None:
    broker = new_broker(MQTT_MAX_CONNECTIONS="5")
    held = [broker.connect() for _ in range(5)]
    eventually(lambda: broker.log.count("New connection from") >= 5)
    with broker.connect() as one_more:
        assert one_more.recv(1) == b""
    eventually(lambda: "max_connections exceeded" in broker.log)
    for connection in held:
        connection.close()
    # Then there is room again.
    eventually(lambda: broker.log.count("closed") + broker.log.count("disconnected") >= 5)
    with broker.client("operator"):
        pass


def test_what_waits_for_a_consumer_is_bounded_in_bytes(new_broker: NewBroker) -> None:
    broker = new_broker(MQTT_MAX_QUEUED_BYTES="100000")
    with broker.client("consumer", "consumer") as consumer:
        subscribed: list[object] = []
        consumer.on_subscribe = lambda *arguments: subscribed.append(arguments)
        consumer.subscribe(TOPIC, qos=1)
        eventually(lambda: subscribed)
    with broker.client("operator") as publisher:
        for info in [publisher.publish(TOPIC, bytes(1000), qos=1) for _ in range(300)]:
            info.wait_for_publish(10)
    received: list[bytes] = []
    with broker.client("consumer", "consumer", received), broker.client("operator") as publisher:
        eventually(lambda: len(received) >= 80)
        publisher.publish(TOPIC, b"last", qos=1)
        eventually(lambda: received[-1] == b"last")
    assert 80 <= len(received) - 1 <= 130


@pytest.mark.parametrize("asked_for", ["0", "1"])
def test_messages_are_retained_where_that_is_asked_for(new_broker: NewBroker, asked_for: str) -> None:
    broker = new_broker(MQTT_RETAIN=asked_for)
    with broker.client("operator") as client:
        acknowledged: list[ReasonCode] = []
        disconnected: list[ReasonCode] = []
        client.on_publish = lambda *arguments: acknowledged.append(arguments[3])
        client.on_disconnect = lambda *arguments: disconnected.append(arguments[3])
        client.publish(TOPIC, b"kept", qos=1, retain=True)
        eventually(lambda: acknowledged or disconnected)
    if asked_for == "0":
        assert [str(reason) for reason in disconnected[:1]] == ["Retain not supported"]
    else:
        assert acknowledged
    received: list[bytes] = []
    with broker.client("operator", received=received) as client:
        client.subscribe(TOPIC, qos=1)
        client.publish(TOPIC, b"live", qos=1)
        eventually(lambda: b"live" in received)
    assert received == ([b"kept", b"live"] if asked_for == "1" else [b"live"])


def test_the_broker_and_the_consumer_have_one_value(new_stack: Callable[..., Stack]) -> None:
    stack = new_stack(MQTT_MAX_PACKET_SIZE="4096", DEVICES="1", INTERVAL_SECONDS="86400")
    stack.up()
    for part in ("mosquitto", "consumer"):
        assert stack.runtime.environment(part)["MQTT_MAX_PACKET_SIZE"] == "4096"
