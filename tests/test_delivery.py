"""No reading is lost, whatever breaks: each test counts sent, processed, twice, dead-lettered and lost."""

import http.server
import json
import os
import random
import re
import shutil
import signal
import socket
import socketserver
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from harness import Stack, eventually, reading

SERVICES = ("producer", "consumer", "echo")
PROCESSED = re.compile(r"processed reading (\S+) on ")
DEAD_LETTERED = re.compile(r"moved reading (\S+) to dead-letter/")


@dataclass
class Ledger:
    """What became of the readings that a test sent."""

    stack: Stack
    consumers: tuple[str, ...] = ("consumer",)
    sent: list[str] = field(default_factory=list)

    def processed(self) -> Counter[str]:
        return Counter(PROCESSED.findall(self._log()))

    def dead_lettered(self) -> Counter[str]:
        return Counter(DEAD_LETTERED.findall(self._log()))

    def _log(self) -> str:
        return "".join(map(self.stack.runtime.log_text, self.consumers))

    def lost(self) -> set[str]:
        return set(self.sent) - self.processed().keys() - self.dead_lettered().keys()

    def twice(self) -> int:
        processed = self.processed()
        return sum(processed[identifier] > 1 for identifier in self.sent)

    def settle(self, seconds: float = 60.0) -> None:
        """Waits until every reading is somewhere, and says where."""
        eventually(lambda: not self.lost(), seconds)
        processed, dead = self.processed(), self.dead_lettered()
        print(
            f"sent {len(self.sent)}, processed {sum(i in processed for i in self.sent)}, twice {self.twice()}, "
            f"dead-lettered {sum(i in dead for i in self.sent)}, lost {len(self.lost())}"
        )


class Publisher:
    """Publishes readings as the producer's user, each acknowledged by the broker before it counts as sent."""

    def __init__(self, stack: Stack, consumers: tuple[str, ...] = ("consumer",)) -> None:
        self.ledger = Ledger(stack, consumers)
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        password = stack.settings.mqtt_producer_password.get_secret_value()
        self._client.username_pw_set(stack.settings.mqtt_producer_username, password)
        self._client.connect("127.0.0.1", stack.settings.mqtt_port)
        self._client.loop_start()

    def send(self, count: int, devices: int = 10) -> None:
        infos = []
        for number in range(count):
            sent = reading(device_id=f"sensor-{number % devices:03}", sequence=number)
            self.ledger.sent.append(str(sent["message_id"]))
            infos.append(self._client.publish(f"sensors/{sent['device_id']}/reading", json.dumps(sent), qos=1))
        for info in infos:
            info.wait_for_publish(30)
            assert info.is_published()

    def send_raw(self, topic: str, payload: bytes, properties: Properties | None = None) -> None:
        info = self._client.publish(topic, payload, qos=1, properties=properties)
        info.wait_for_publish(30)
        assert info.is_published()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture(scope="module")
def quiet_stack(new_stack: Callable[..., Stack]) -> Stack:
    """A stack whose own producer keeps still."""
    stack = new_stack(DEVICES="1", INTERVAL_SECONDS="86400", OTEL_METRIC_EXPORT_INTERVAL="60000")
    stack.up()
    return stack


@pytest.fixture
def publisher(quiet_stack: Stack) -> Iterator[Publisher]:
    publisher = Publisher(quiet_stack)
    yield publisher
    publisher.close()


@contextmanager
def dead_letters(stack: Stack) -> Iterator[list[mqtt.MQTTMessage]]:
    """What the broker delivers on the dead-letter topics meanwhile."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    password = stack.settings.mqtt_operator_password.get_secret_value()
    client.username_pw_set(stack.settings.mqtt_operator_username, password)
    found: list[mqtt.MQTTMessage] = []
    subscribed = threading.Event()
    client.on_message = lambda _client, _userdata, message: found.append(message)
    client.on_subscribe = lambda *_: subscribed.set()
    client.connect("127.0.0.1", stack.settings.mqtt_port)
    client.subscribe("dead-letter/#", qos=1)
    client.loop_start()
    assert subscribed.wait(10)
    yield found
    client.disconnect()
    client.loop_stop()


def user_properties(message: mqtt.MQTTMessage) -> list[tuple[str, str]]:
    return getattr(message.properties, "UserProperty", [])


def test_echo_down_for_15_seconds_with_500_readings_under_way(quiet_stack: Stack, publisher: Publisher) -> None:
    quiet_stack.stop_part("echo")
    stopped = time.monotonic()
    publisher.send(500)
    time.sleep(max(0.0, 15 - (time.monotonic() - stopped)))  # the outage
    assert quiet_stack.pid("consumer") > 0
    quiet_stack.start_part("echo")
    publisher.ledger.settle()
    assert not publisher.ledger.dead_lettered()
    assert publisher.ledger.twice() == 0


class BrokenEcho(http.server.BaseHTTPRequestHandler):
    """Answers with what a broken server answers."""

    answer = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"
    requests = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).requests += 1
        self.wfile.write(self.answer)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the library's name)
        pass


ANSWERS = {
    "500": b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
    "no JSON": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff\xfe",
    "no HTTP": b"\x00\x01garbage\r\n\r\n",
    "half an answer": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
}


@contextmanager
def serving(port: int, handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[None]:
    """A server in this process."""
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    with socketserver.ThreadingTCPServer(("127.0.0.1", port), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


@contextmanager
def broken_echo(stack: Stack, answer: bytes) -> Iterator[type[BrokenEcho]]:
    """In place of echo."""
    handler = type("Handler", (BrokenEcho,), {"answer": answer, "requests": 0})
    with serving(stack.settings.echo_port, handler):
        yield handler


@pytest.mark.parametrize("answer", ANSWERS)
def test_echo_talks_nonsense_for_a_while(quiet_stack: Stack, publisher: Publisher, answer: str) -> None:
    quiet_stack.stop_part("echo")
    with broken_echo(quiet_stack, ANSWERS[answer]) as handler:
        publisher.send(20)
        eventually(lambda: handler.requests >= 10)
    assert not publisher.ledger.processed().keys() & set(publisher.ledger.sent)
    quiet_stack.start_part("echo")
    publisher.ledger.settle()
    assert not publisher.ledger.dead_lettered().keys() & set(publisher.ledger.sent)


# Killed, it has not acknowledged at most what the broker sent ahead (QUEUE_SIZE); told to stop, it finishes that.
@pytest.mark.parametrize(("sign", "twice"), [(signal.SIGKILL, 200), (signal.SIGTERM, 20)])
def test_the_consumer_is_ended_with_500_queued(
    quiet_stack: Stack, publisher: Publisher, sign: signal.Signals, twice: int
) -> None:
    pid = quiet_stack.pid("consumer")
    publisher.send(500)
    os.kill(pid, sign)
    publisher.ledger.settle()
    # It may have finished all of them before it ended.
    eventually(lambda: quiet_stack.pid("consumer") not in (0, pid))
    assert publisher.ledger.twice() <= twice


def test_500_readings_arrive_while_the_consumer_is_away(quiet_stack: Stack, publisher: Publisher) -> None:
    quiet_stack.stop_part("consumer")
    publisher.send(500)
    quiet_stack.start_part("consumer")
    publisher.ledger.settle()
    assert publisher.ledger.twice() == 0


def test_the_collector_is_away_or_hangs(quiet_stack: Stack, publisher: Publisher) -> None:
    collector = quiet_stack.pid("collector")
    os.kill(collector, signal.SIGSTOP)
    try:
        started = time.monotonic()
        publisher.send(500)
        publisher.ledger.settle()
        assert time.monotonic() - started < 30
    finally:
        os.kill(collector, signal.SIGCONT)
    quiet_stack.stop_part("collector")
    publisher.send(500)
    publisher.ledger.settle()
    quiet_stack.start_part("collector")
    assert publisher.ledger.twice() == 0


def test_readings_from_another_time_are_readings(quiet_stack: Stack, publisher: Publisher) -> None:
    for timestamp in ("1970-01-01T00:00:00Z", "2199-12-31T23:59:59+14:00", "2026-01-01T00:00:00"):
        sent = reading(timestamp=timestamp)
        publisher.ledger.sent.append(str(sent["message_id"]))
        publisher.send_raw("sensors/sensor-001/reading", json.dumps(sent).encode())
    publisher.ledger.settle()
    assert not publisher.ledger.dead_lettered().keys() & set(publisher.ledger.sent)


HOSTILE: list[bytes] = [
    b"",
    b"null",
    b"17",
    b'"text"',
    b"[]",
    b"[null]",
    b'{"temperature_c": NaN}',
    b'{"message_id": "\\ud800"}',
    b'{"message_id": null}',
    b'{"message_id": {"a": 1}}',
    b"{}",
    b"[" * 5000,
    b'{"a":' * 5000 + b"1" + b"}" * 5000,
    bytes(range(256)),
    b"x" * 1_000_000,
]


def hostile_properties(number: int) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)
    match number % 4:
        case 0:
            properties.UserProperty = [(f"name-{i}", "value") for i in range(1000)]
        case 1:
            properties.UserProperty = [("traceparent", "x" * 10_000), ("tracestate", ","), ("baggage", ";=%%")]
        case 2:
            properties.UserProperty = [("traceparent", "00-" + "1" * 32 + "-" + "2" * 16 + "-01")] * 3
        # Control characters are not tried: Mosquitto itself refuses them, as it does what is no UTF-8.
        case _:
            properties.UserProperty = [("", ""), ("TRACEPARENT", "x"), ("ü" * 100, "\U0001f600")]
    return properties


def test_1000_hostile_messages_among_good_ones(quiet_stack: Stack, publisher: Publisher) -> None:
    pid = quiet_stack.pid("consumer")
    topic = "sensors/hostile/reading"
    with dead_letters(quiet_stack) as found:
        for number in range(1000):
            payload = HOSTILE[number % len(HOSTILE)]
            # The large ones a few times only.
            payload = payload if len(payload) < 100_000 or number < 60 else b"no JSON"
            publisher.send_raw(topic, payload, hostile_properties(number))
            if number % 20 == 0:
                publisher.send(1)
        publisher.ledger.settle(120)
        eventually(lambda: len(found) >= 1000, 120)
    assert len(found) == 1000
    assert quiet_stack.pid("consumer") == pid
    assert not publisher.ledger.dead_lettered().keys() & set(publisher.ledger.sent)
    for message in found:
        assert message.topic == f"dead-letter/{topic}"
        assert "dead-letter-reason" in dict(user_properties(message))
    assert sorted(bytes(message.payload) for message in found[:15]) == sorted(HOSTILE)


def test_names_that_are_no_utf_8_end_at_the_broker(quiet_stack: Stack, publisher: Publisher) -> None:
    def text(value: bytes) -> bytes:
        return len(value).to_bytes(2, "big") + value

    def packet(kind: int, body: bytes) -> bytes:
        assert len(body) < 128  # a length of one byte
        return bytes([kind, len(body)]) + body

    settings, pid = quiet_stack.settings, quiet_stack.pid("consumer")
    login = settings.mqtt_producer_username.encode(), settings.mqtt_producer_password.get_secret_value().encode()
    properties = b"\x26" + text(b"\xff\xfe") + text(b"value")
    for topic, fields in ((b"sensors/x/reading", properties), (b"sensors/\xff\xfe/reading", b"")):
        with socket.create_connection(("127.0.0.1", settings.mqtt_port), timeout=10) as connection:
            connection.sendall(
                packet(0x10, text(b"MQTT") + b"\x05\xc2\x00\x3c\x00" + b"".join(map(text, (b"", *login))))
            )
            assert connection.recv(100)[0] == 0x20  # CONNACK
            connection.sendall(packet(0x32, text(topic) + b"\x00\x01" + bytes([len(fields)]) + fields + b"{}"))
            answers = b"".join(iter(lambda: connection.recv(100), b""))  # until the broker closes
            assert not answers.startswith(b"\x40"), "the broker took it"
    publisher.send(1)
    publisher.ledger.settle()
    assert quiet_stack.pid("consumer") == pid


def test_a_dead_letter_keeps_its_trace_and_says_why(quiet_stack: Stack, publisher: Publisher) -> None:
    since = time.time_ns()
    trace_id = uuid4().hex
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = [("traceparent", f"00-{trace_id}-00f067aa0ba902b7-01"), ("mine", "kept")]
    sent = json.dumps(reading(humidity_pct="wet")).encode()
    with dead_letters(quiet_stack) as found:
        publisher.send_raw("sensors/sensor-009/reading", sent, properties)
        (message,) = eventually(lambda: found)
    assert bytes(message.payload) == sent
    carried = dict(user_properties(message))
    assert carried["traceparent"].split("-")[1] == trace_id
    assert carried["mine"] == "kept"
    assert "echo answered 422" in carried["dead-letter-reason"]
    assert "humidity_pct" in carried["dead-letter-reason"]
    topic = "sensors/sensor-009/reading"
    spans = quiet_stack.spans_of("messaging.mqtt.dead_letter", f"dead-letter/{topic}", count=4, since=since)
    assert {span.trace_id for span in spans} == {trace_id}
    names = Counter(span.name for span in spans)
    assert names == {f"process {topic}": 1, "POST": 1, "POST /echo": 1, f"publish dead-letter/{topic}": 1}


def test_when_patience_is_at_its_end_readings_go_to_the_dead_letters(new_stack: Callable[..., Stack]) -> None:
    stack = new_stack(DEVICES="1", INTERVAL_SECONDS="86400", RETRY_SECONDS="1")
    stack.up()
    stack.stop_part("echo")
    publisher = Publisher(stack)
    with dead_letters(stack) as found:
        publisher.send(12)
        publisher.ledger.settle()
        eventually(lambda: len(found) == 12)
    assert not publisher.ledger.processed().keys() & set(publisher.ledger.sent)
    reasons = [dict(user_properties(message))["dead-letter-reason"] for message in found]
    assert all("echo did not answer" in reason for reason in reasons)
    publisher.close()
    stack.runtime.down()


def states(stack: Stack) -> list[tuple[str, str]]:
    return [(name, state) for name, state, _ in stack.runtime.states()]


def producers_sent(stack: Stack) -> int:
    return sum(map(int, re.findall(r"stopping after (\d+) readings", stack.runtime.log_text("producer"))))


def test_the_broker_is_away_for_10_seconds(new_stack: Callable[..., Stack]) -> None:
    stack = new_stack(DEVICES="10", INTERVAL_SECONDS="0.2")
    stack.up()
    eventually(lambda: stack.runtime.log_text("consumer").count("processed reading") > 50)
    stack.stop_part("mosquitto")
    time.sleep(10)  # the outage
    stack.start_part("mosquitto")
    before = stack.runtime.log_text("consumer").count("processed reading")
    eventually(lambda: stack.runtime.log_text("consumer").count("processed reading") > before + 600, 60)
    stack.stop_part("producer")
    sent = producers_sent(stack)
    assert sent > 500
    ledger = Ledger(stack)
    eventually(lambda: len(ledger.processed()) >= sent)
    print(f"sent {sent}, processed {len(ledger.processed())}, twice {sum(n > 1 for n in ledger.processed().values())}")
    assert len(ledger.processed()) == sent
    assert stack.runtime.log_text("producer").count("dropping readings") == 0
    stack.runtime.down()


def test_the_broker_is_absent_at_the_start_and_knows_nobody_when_it_comes(new_stack: Callable[..., Stack]) -> None:
    stack = new_stack(DEVICES="10", INTERVAL_SECONDS="0.2")
    stack.up()
    for part in ("producer", "consumer", "mosquitto"):
        stack.stop_part(part)
    shutil.rmtree(stack.settings.run_dir / "mosquitto" / "data")
    before, sent_before = Ledger(stack).processed(), producers_sent(stack)
    stack.start_part("producer")
    eventually(lambda: "cannot connect" in stack.runtime.log_text("producer"))
    stack.start_part("mosquitto")
    # The producer is there first, and the broker has no session of a consumer: it throws away what comes.
    eventually(lambda: "nobody is subscribed" in stack.runtime.log_text("producer"))
    stack.start_part("consumer")
    eventually(lambda: len(Ledger(stack).processed() - before) > 300)
    stack.stop_part("producer")
    sent = producers_sent(stack) - sent_before
    ledger = Ledger(stack)
    eventually(lambda: len(ledger.processed() - before) >= sent)
    processed = ledger.processed() - before
    twice = sum(count > 1 for count in processed.values())
    print(f"sent {sent}, processed {len(processed)}, twice {twice}, dead-lettered {len(ledger.dead_lettered())}")
    assert len(processed) == sent
    assert set(processed.values()) == {1}
    assert not ledger.dead_lettered()
    stack.runtime.down()


def test_the_collector_is_away_for_30_seconds(new_stack: Callable[..., Stack]) -> None:
    stack = new_stack(DEVICES="10", INTERVAL_SECONDS="1")
    since = time.time_ns()
    stack.up()
    ledger = Ledger(stack)
    eventually(lambda: len(ledger.processed()) > 50)
    running = {name: stack.pid(name) for name in SERVICES}
    stack.stop_part("collector")
    gone = time.monotonic()
    while time.monotonic() - gone < 30:
        seen = dict(states(stack))
        assert {seen[name] for name in SERVICES} == {"healthy"}
    stack.start_part("collector")
    returned, before = time.time_ns(), len(ledger.processed())
    # Longer than the longest pause between two tries to export.
    eventually(lambda: len(ledger.processed()) > before + 150, 60)
    eventually(lambda: stack.whole_traces(returned) > 50)
    assert {name: stack.pid(name) for name in SERVICES} == running
    stack.stop_part("producer")
    ledger.sent += list(ledger.processed())
    ledger.settle()
    sent = producers_sent(stack)
    print(f"the producer published {sent}; whole traces {stack.whole_traces(since)}")
    assert len(ledger.sent) == sent
    assert ledger.twice() == 0
    assert not ledger.dead_lettered()
    stack.runtime.down()


@contextmanager
def onlooker(stack: Stack) -> Iterator[set[str]]:
    """The readings that the broker delivers, whatever becomes of it: Mosquitto restores a session like this one."""
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 3600
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="onlooker", protocol=mqtt.MQTTv5)
    password = stack.settings.mqtt_operator_password.get_secret_value()
    client.username_pw_set(stack.settings.mqtt_operator_username, password)
    client.reconnect_delay_set(max_delay=1)
    arrived: set[str] = set()
    subscribed = threading.Event()

    def on_connect(*_: object) -> None:
        client.subscribe("sensors/+/reading", qos=1)

    client.on_connect = on_connect
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_message = lambda _client, _userdata, message: arrived.add(json.loads(message.payload)["message_id"])
    client.connect("127.0.0.1", stack.settings.mqtt_port, clean_start=False, properties=properties)
    client.loop_start()
    assert subscribed.wait(10)
    yield arrived
    client.disconnect()
    client.loop_stop()


def test_the_producer_drops_what_its_buffer_cannot_hold_and_says_how_much(new_stack: Callable[..., Stack]) -> None:
    stack = new_stack(
        DEVICES="10",
        INTERVAL_SECONDS="0.2",
        BUFFER_SIZE="30",
        OTEL_METRIC_EXPORT_INTERVAL="1000",
        COLLECTOR_DEBUG_VERBOSITY="detailed",
    )
    stack.up()

    def log() -> str:
        return stack.runtime.log_text("producer")

    def said() -> list[int]:
        return list(map(int, re.findall(r"takes readings again; (\d+) were dropped", log())))

    with onlooker(stack) as arrived:
        # From its first reading on, so that all are counted.
        stack.stop_part("producer")
        arrived.clear()
        stack.start_part("producer")
        for outage in (1, 2, 3):
            count = len(arrived)
            eventually(lambda count=count: len(arrived) > count + 50)
            stack.stop_part("mosquitto")
            eventually(lambda outage=outage: log().count("dropping readings") == outage)
            if outage < 3:
                stack.start_part("mosquitto")
                eventually(lambda outage=outage: len(said()) == outage, 60)
        # Now it is told to stop before the broker is back.
        stack.stop_part("producer")
        accepted, dropped = map(int, re.findall(r"stopping after (\d+) readings; (\d+) more were dropped", log())[-1])
        unsent = int(re.findall(r"did not acknowledge (\d+) readings in time", log())[-1])
        stack.start_part("mosquitto")
        eventually(lambda: len(arrived) >= accepted - unsent)
    print(f"accepted {accepted}, dropped {dropped}, not sent {unsent}, arrived {len(arrived)}")
    assert len(arrived) == accepted - unsent
    assert unsent == 30
    assert dropped > sum(said()) > 0
    counted = re.findall(r"producer\.readings\.dropped\n(?:.*\n)*?Value: (\d+)", stack.runtime.log_text("collector"))
    assert int(counted[-1]) == dropped
    stack.runtime.down()


def test_the_broker_is_started_again_and_the_consumer_comes_last(quiet_stack: Stack, publisher: Publisher) -> None:
    quiet_stack.stop_part("consumer")
    quiet_stack.stop_part("mosquitto")
    quiet_stack.start_part("mosquitto")
    publisher.send(100)
    quiet_stack.start_part("consumer")
    publisher.ledger.settle()
    assert publisher.ledger.twice() == 0


def test_the_broker_is_killed(new_stack: Callable[..., Stack]) -> None:
    stack = new_stack(DEVICES="10", INTERVAL_SECONDS="0.2")
    stack.up()
    stack.stop_part("consumer")  # so that the broker holds readings when it is killed
    time.sleep(4)  # readings that its store may or may not have
    os.kill(stack.pid("mosquitto"), signal.SIGKILL)
    eventually(lambda: ("mosquitto", "healthy") in states(stack))
    stack.start_part("consumer")
    time.sleep(2)  # readings after it
    stack.stop_part("producer")
    sent = producers_sent(stack)
    ledger = Ledger(stack)
    last = -1
    while (count := len(ledger.processed())) != last:
        last = count
        time.sleep(3)
    lost = sent - len(ledger.processed())
    print(f"sent {sent}, processed {len(ledger.processed())}, lost {lost}")
    # Mosquitto forgets what came since it last wrote its store: each second, later on a busy machine.
    assert 0 <= lost <= 5 * 50
    stack.runtime.down()


def test_the_network_of_the_consumer_stalls(new_stack: Callable[..., Stack]) -> None:
    stack = new_stack(DEVICES="1", INTERVAL_SECONDS="86400")
    stack.up()
    publisher = Publisher(stack)
    publisher.send(10)
    publisher.ledger.settle()
    consumer, broker = stack.pid("consumer"), stack.pid("mosquitto")
    os.kill(broker, signal.SIGSTOP)  # the connection stands, and nothing comes
    try:
        eventually(lambda: "nothing comes from the broker" in stack.runtime.log_text("consumer"), 60)
    finally:
        os.kill(broker, signal.SIGCONT)
    eventually(lambda: stack.pid("consumer") not in (0, consumer))
    publisher.send(10)
    publisher.ledger.settle()
    publisher.close()
    stack.runtime.down()


def test_the_consumer_is_held_up_until_the_broker_gives_the_connection_up(
    quiet_stack: Stack, publisher: Publisher
) -> None:
    consumer = quiet_stack.pid("consumer")
    timeouts = quiet_stack.runtime.log_text("mosquitto").count("Client consumer has exceeded timeout")
    publisher.send(500)
    os.kill(consumer, signal.SIGSTOP)  # with readings in its hands
    try:
        eventually(
            lambda: quiet_stack.runtime.log_text("mosquitto").count("Client consumer has exceeded timeout") > timeouts,
            60,
        )
        assert dict(states(quiet_stack))["consumer"] == "unhealthy"
        publisher.send(200)
    finally:
        os.kill(consumer, signal.SIGCONT)
    publisher.ledger.settle()
    assert publisher.ledger.twice() <= 200  # QUEUE_SIZE
    eventually(lambda: dict(states(quiet_stack))["consumer"] == "healthy")


class RecordingEcho(http.server.BaseHTTPRequestHandler):
    """Takes its time, now more and now less, and notes what it got in which order."""

    received: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(random.uniform(0, 0.02))  # noqa: S311 (no secret)
        self.received.append(json.loads(body))
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the library's name)
        pass


def test_echo_gets_the_readings_of_a_device_in_their_order(new_stack: Callable[..., Stack]) -> None:
    stack = new_stack(DEVICES="1", INTERVAL_SECONDS="86400", WORKERS="8")
    stack.up()
    stack.stop_part("echo")
    publisher = Publisher(stack)
    handler = type("Handler", (RecordingEcho,), {"received": []})
    with serving(stack.settings.echo_port, handler):
        publisher.send(1000, devices=20)
        publisher.ledger.settle()
    publisher.close()
    sent = set(publisher.ledger.sent)
    received = [taken for taken in handler.received if taken["message_id"] in sent]
    assert len(received) == 1000
    sequences = [taken["sequence"] for taken in received]
    assert sequences != sorted(sequences), "the workers did not work side by side"
    for device in {taken["device_id"] for taken in received}:
        of_device = [taken["sequence"] for taken in received if taken["device_id"] == device]
        assert of_device == sorted(of_device)
        assert len(of_device) == 50
    stack.runtime.down()


def can_mount(folder: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    return os.getuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_the_disk_of_the_broker_is_full(new_stack: Callable[..., Stack]) -> None:
    stack = new_stack(DEVICES="1", INTERVAL_SECONDS="86400")
    data = stack.settings.run_dir / "mosquitto" / "data"
    data.mkdir(parents=True)
    if not can_mount(data):
        pytest.skip("a small disk takes a mount, which this user may not make")
    try:
        stack.up()
        stack.stop_part("consumer")
        publisher = Publisher(stack)
        publisher.send(2000)  # more than the disk holds
        eventually(lambda: "No space left on device" in stack.runtime.log_text("mosquitto"))
        stack.start_part("consumer")
        publisher.ledger.settle()
        assert publisher.ledger.twice() == 0
        publisher.close()
        stack.runtime.down()
    finally:
        subprocess.run(["umount", str(data)], check=True)
