"""No reading is lost, whatever breaks: each test counts sent, processed, duplicated, dead-lettered and lost ones."""

import http.server
import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import psutil
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from harness import Stack, eventually, reading, throughout
from ledger import QUIET, NewStack, NotingStack, Publisher, dead_letters, serving, states, user_properties


@pytest.fixture(scope="module")
def quiet_stack(new_shared_stack: NewStack) -> NotingStack:
    """A stack whose own producer stays silent."""
    stack = new_shared_stack(NotingStack, **QUIET)
    stack.up()
    return stack


@pytest.fixture
def publisher(quiet_stack: NotingStack) -> Iterator[Publisher]:
    publisher = Publisher(quiet_stack)
    yield publisher
    publisher.close()


# Longer than the longest pause between two attempts.
@pytest.mark.parametrize("seconds", [6, pytest.param(15, marks=pytest.mark.long)])
def test_echo_is_down_with_500_readings_under_way(
    quiet_stack: NotingStack, publisher: Publisher, seconds: float
) -> None:
    quiet_stack.stop_part("echo")
    pid = quiet_stack.pid("consumer")
    publisher.send(500)
    throughout(seconds, lambda: quiet_stack.pid("consumer") == pid)
    quiet_stack.start_part("echo")
    publisher.ledger.settle()
    assert not publisher.ledger.dead_lettered()
    assert publisher.ledger.twice() == 0


class BrokenEcho(http.server.BaseHTTPRequestHandler):
    """Answers like a broken server."""

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
def broken_echo(stack: Stack, answer: bytes) -> Iterator[type[BrokenEcho]]:
    """Runs a broken server instead of echo."""
    handler = type("Handler", (BrokenEcho,), {"answer": answer, "requests": 0})
    with serving(stack.settings.echo_port, handler):
        yield handler


@pytest.mark.parametrize("answer", ANSWERS)
def test_echo_talks_nonsense_for_a_while(quiet_stack: NotingStack, publisher: Publisher, answer: str) -> None:
    quiet_stack.stop_part("echo")
    with broken_echo(quiet_stack, ANSWERS[answer]) as handler:
        publisher.send(20)
        eventually(lambda: handler.requests >= 10)
    assert not publisher.ledger.processed().keys() & set(publisher.ledger.sent)
    quiet_stack.start_part("echo")
    publisher.ledger.settle()
    assert not publisher.ledger.dead_lettered().keys() & set(publisher.ledger.sent)


# After a kill, the consumer sends unacknowledged readings again, and echo recognizes them by their key.
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_the_consumer_is_ended_with_500_queued_and_echo_works_on_each_once(
    quiet_stack: NotingStack, publisher: Publisher, sign: signal.Signals
) -> None:
    pid = quiet_stack.pid("consumer")
    publisher.send(500)
    os.kill(pid, sign)
    publisher.ledger.settle()
    # The consumer may have processed all of them before it ended.
    eventually(lambda: quiet_stack.pid("consumer") not in (0, pid))
    assert publisher.ledger.twice() == 0
    again = {identifier for identifier, *_ in publisher.ledger.taken("again")} & set(publisher.ledger.sent)
    print(f"sent to echo again {len(again)}")
    # After SIGTERM it has acknowledged everything that it processed.
    assert not again or sign == signal.SIGKILL


def test_500_readings_arrive_while_the_consumer_is_away(quiet_stack: NotingStack, publisher: Publisher) -> None:
    quiet_stack.stop_part("consumer")
    publisher.send(500)
    quiet_stack.start_part("consumer")
    publisher.ledger.settle()
    assert publisher.ledger.twice() == 0


def test_the_collector_is_away_or_hangs(quiet_stack: NotingStack, publisher: Publisher) -> None:
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


def test_readings_from_another_time_are_readings(quiet_stack: NotingStack, publisher: Publisher) -> None:
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
    b"x" * 60_000,
]


def hostile_properties(number: int) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)
    match number % 5:
        case 0:
            properties.UserProperty = [(f"name-{i}", "value") for i in range(1000)]
        case 1:
            properties.UserProperty = [("traceparent", "x" * 10_000), ("tracestate", ","), ("baggage", ";=%%")]
        case 2:
            properties.UserProperty = [("traceparent", "00-" + "1" * 32 + "-" + "2" * 16 + "-01")] * 3
        case 3:
            properties.ContentType = properties.ResponseTopic = "\ufeff"
            properties.UserProperty = [("\ufeff", "\ufeff")]
        # Control characters and invalid UTF-8 are not tried: Mosquitto itself refuses them.
        case _:
            properties.UserProperty = [("", ""), ("TRACEPARENT", "x"), ("ü" * 100, "\U0001f600")]
    return properties


def test_1000_hostile_messages_among_good_ones(quiet_stack: NotingStack, publisher: Publisher) -> None:
    pid = quiet_stack.pid("consumer")
    topic = "sensors/hostile/reading"
    with dead_letters(quiet_stack) as found:
        for number in range(1000):
            payload = HOSTILE[number % len(HOSTILE)]
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


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("ahead", "most_bytes"), [(100, 120_000_000), (800, 130_000_000)], ids=["within Receive Maximum", "far beyond it"]
)
def test_10000_hostile_messages_neither_stop_nor_fill_the_consumer(
    quiet_stack: NotingStack, publisher: Publisher, ahead: int, most_bytes: int
) -> None:
    consumer = psutil.Process(quiet_stack.pid("consumer"))
    largest = 0
    with dead_letters(quiet_stack) as found:
        for number in range(10_000):
            # The topics are as long as their packets allow, and each is different.
            name = f"{number}-{'x' * (30_000 if number % 2 else 900)}"
            properties = hostile_properties(number)
            payload = os.urandom(10_000) if number % 3 else json.dumps(reading(message_id=name[:200])).encode()
            publisher.send_raw(f"sensors/{name}/reading", payload, properties, wait=number % 100 == 0)
            if number % 100 == 0:
                publisher.send(1)
                # Mosquitto 2.0.11 sends everything it holds at once, so the more it holds, the more arrives.
                eventually(lambda number=number: len(found) > number - ahead, 120)
                largest = max(largest, consumer.memory_info().rss)
        publisher.ledger.settle(300)
        eventually(lambda: len(found) >= 10_000, 300)
    largest = max(largest, consumer.memory_info().rss)
    print(f"at most {largest / 2**20:.0f} MiB")
    assert largest < most_bytes
    assert quiet_stack.pid("consumer") == consumer.pid


def test_names_that_are_no_utf_8_end_at_the_broker(quiet_stack: NotingStack, publisher: Publisher) -> None:
    def text(value: bytes) -> bytes:
        return len(value).to_bytes(2, "big") + value

    def packet(kind: int, body: bytes) -> bytes:
        assert len(body) < 128  # a length of one byte
        return bytes([kind, len(body)]) + body

    settings, pid = quiet_stack.settings, quiet_stack.pid("consumer")
    login = settings.mqtt_operator_username.encode(), settings.mqtt_operator_password.get_secret_value().encode()
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


def test_a_dead_letter_keeps_its_trace_and_says_why(quiet_stack: NotingStack, publisher: Publisher) -> None:
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


def test_the_broker_is_started_again_and_the_consumer_comes_last(
    quiet_stack: NotingStack, publisher: Publisher
) -> None:
    quiet_stack.stop_part("consumer")
    quiet_stack.stop_part("mosquitto")
    quiet_stack.start_part("mosquitto")
    publisher.send(100)
    quiet_stack.start_part("consumer")
    publisher.ledger.settle()
    assert publisher.ledger.twice() == 0


def test_the_consumer_is_held_up_until_the_broker_gives_the_connection_up(
    quiet_stack: NotingStack, publisher: Publisher
) -> None:
    consumer = quiet_stack.pid("consumer")
    timeouts = quiet_stack.runtime.log_text("mosquitto").count("Client consumer has exceeded timeout")
    publisher.send(500)
    os.kill(consumer, signal.SIGSTOP)  # with readings in flight
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
