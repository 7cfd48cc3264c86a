"""No reading is lost while a part is away, full or slow. Like test_delivery.py, but each test has its own stack."""

import contextlib
import http.server
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import statistics
import subprocess
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from harness import Stack, eventually, throughout
from ledger import (
    Ledger,
    NewStack,
    NotingStack,
    Publisher,
    dead_letters,
    producers_sent,
    serving,
    states,
    user_properties,
)

SERVICES = ("producer", "consumer", "echo")


def whole_traces(stack: Stack, since: int) -> int:
    """The number of traces with all four spans. Fetches none: ``Stack.whole_traces`` is slow for thousands."""
    return sum(count >= 4 for count in stack.viewer.span_counts(since, time.time_ns()).values())


def test_when_patience_is_at_its_end_readings_go_to_the_dead_letters(new_stack: NewStack) -> None:
    stack = new_stack(NotingStack, DEVICES="1", INTERVAL_SECONDS="86400", RETRY_SECONDS="1")
    stack.up()
    stack.stop_part("echo")
    publisher = Publisher(stack)
    with dead_letters(stack) as found:
        publisher.send(12)
        publisher.ledger.settle()
        eventually(lambda: len(found) == 12)
    assert not publisher.ledger.processed().keys() & set(publisher.ledger.sent)
    reasons = [dict(user_properties(message))["dead-letter-reason"] for message in found]
    assert all("Connection refused" in reason for reason in reasons)
    publisher.close()
    stack.runtime.down()


# Longer than the longest pause before a client connects again.
@pytest.mark.parametrize("seconds", [4, pytest.param(10, marks=pytest.mark.long)])
def test_the_broker_is_away(new_stack: NewStack, seconds: float) -> None:
    stack = new_stack(NotingStack, DEVICES="10", INTERVAL_SECONDS="0.2")
    stack.up()
    ledger = Ledger(stack)
    eventually(lambda: len(ledger.processed()) > 50)
    stack.stop_part("mosquitto")
    throughout(seconds, lambda: dict(states(stack))["consumer"] != "stopped")
    stack.start_part("mosquitto")
    before = len(ledger.processed())
    eventually(lambda: len(ledger.processed()) > before + 50 * seconds, 60)
    stack.stop_part("producer")
    sent = producers_sent(stack)
    assert sent > 50 * seconds
    eventually(lambda: len(ledger.processed()) >= sent)
    print(f"sent {sent}, processed {len(ledger.processed())}, twice {sum(n > 1 for n in ledger.processed().values())}")
    assert len(ledger.processed()) == sent
    assert stack.runtime.log_text("producer").count("dropping messages") == 0
    stack.runtime.down()


def test_the_broker_is_absent_at_the_start_and_knows_nobody_when_it_comes(
    new_stack: NewStack,
) -> None:
    stack = new_stack(NotingStack, DEVICES="10", INTERVAL_SECONDS="0.2")
    stack.up()
    ledger = Ledger(stack)
    for part in ("producer", "consumer", "mosquitto"):
        stack.stop_part(part)
    shutil.rmtree(stack.settings.run_dir / "mosquitto" / "data")
    before, sent_before = ledger.processed(), producers_sent(stack)
    stack.start_part("producer")
    eventually(lambda: "cannot connect" in stack.runtime.log_text("producer"))
    stack.start_part("mosquitto")
    # The producer starts first: the broker has no consumer session yet, so it discards the readings.
    eventually(lambda: "nobody is subscribed" in stack.runtime.log_text("producer"))
    stack.start_part("consumer")
    eventually(lambda: len(ledger.processed() - before) > 300)
    stack.stop_part("producer")
    sent = producers_sent(stack) - sent_before
    eventually(lambda: len(ledger.processed() - before) >= sent)
    processed = ledger.processed() - before
    twice = sum(count > 1 for count in processed.values())
    print(f"sent {sent}, processed {len(processed)}, twice {twice}, dead-lettered {len(ledger.dead_lettered())}")
    assert len(processed) == sent
    assert set(processed.values()) == {1}
    assert not ledger.dead_lettered()
    stack.runtime.down()


# Longer than the first pauses between two export attempts. All pauses take 25 s or more, so spans outlive 20 s.
@pytest.mark.parametrize(
    ("seconds", "devices"), [(8, 10), *(pytest.param(seconds, 50, marks=pytest.mark.long) for seconds in (20, 30))]
)
def test_the_collector_is_away(new_stack: NewStack, seconds: float, devices: int) -> None:
    stack = new_stack(NotingStack, DEVICES=str(devices), INTERVAL_SECONDS="1")
    since = time.time_ns()
    stack.up()
    ledger = Ledger(stack)
    eventually(lambda: len(ledger.processed()) > 50)
    running = {name: stack.pid(name) for name in SERVICES}
    stack.stop_part("collector")
    throughout(seconds, lambda: {dict(states(stack))[name] for name in SERVICES} == {"healthy"})
    stack.start_part("collector")
    returned, before = time.time_ns(), len(ledger.processed())
    eventually(lambda: len(ledger.processed()) > before + 150, 60)
    # Longer than the longest pause between two export attempts: a service that is stopped in it does not try again.
    eventually(lambda: whole_traces(stack, returned) > 50, 60)
    assert {name: stack.pid(name) for name in SERVICES} == running
    stack.stop_part("producer")
    ledger.sent += list(ledger.processed())
    ledger.settle()
    sent = producers_sent(stack)
    assert len(ledger.sent) == sent
    if seconds <= 20:
        eventually(lambda: whole_traces(stack, since) == sent, 60)
    print(f"the producer published {sent}; whole traces {whole_traces(stack, since)}")
    assert ledger.twice() == 0
    assert not ledger.dead_lettered()
    stack.runtime.down()


@pytest.mark.parametrize(("readings", "seconds"), [(800, 8), pytest.param(5000, 60, marks=pytest.mark.long)])
def test_no_span_is_lost_while_scout_is_away_and_the_collector_is_killed(
    new_stack: NewStack, readings: int, seconds: float
) -> None:
    stack = new_stack(NotingStack, DEVICES="80", INTERVAL_SECONDS="1")
    since = time.time_ns()
    stack.up()
    ledger = Ledger(stack)
    eventually(lambda: len(ledger.processed()) > 80)
    stack.stop_part("gateway")
    throughout(seconds / 2, lambda: dict(states(stack))["gateway"] == "stopped")
    collector = stack.pid("collector")
    os.kill(collector, signal.SIGKILL)
    eventually(lambda: stack.pid("collector") not in (collector, 0) and dict(states(stack))["collector"] == "healthy")
    throughout(seconds / 2, lambda: dict(states(stack))["gateway"] == "stopped")
    stack.start_part("gateway")
    eventually(lambda: len(ledger.processed()) >= readings, 120)
    stack.stop_part("producer")
    sent = producers_sent(stack)
    eventually(lambda: len(ledger.processed()) == sent)
    eventually(lambda: whole_traces(stack, since) == sent, 90)
    print(f"sent {sent}, whole traces {whole_traces(stack, since)}")
    stack.runtime.down()


@contextmanager
def onlooker(stack: Stack) -> Iterator[set[str]]:
    """The readings that the broker delivers, even if it restarts: Mosquitto restores a session like this one."""
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


def test_the_producer_drops_what_its_buffer_cannot_hold_and_says_how_much(
    new_stack: NewStack,
) -> None:
    stack = new_stack(
        NotingStack,
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
        return list(map(int, re.findall(r"takes messages again; (\d+) were dropped", log())))

    with onlooker(stack) as arrived:
        # Restarts the producer, so that all its readings are counted.
        stack.stop_part("producer")
        arrived.clear()
        stack.start_part("producer")
        for outage in (1, 2, 3):
            count = len(arrived)
            eventually(lambda count=count: len(arrived) > count + 50)
            before = log().count("dropping messages")
            stack.stop_part("mosquitto")
            eventually(lambda before=before: log().count("dropping messages") > before)
            if outage < 3:
                stack.start_part("mosquitto")
                # Such a small buffer may fill up again while it empties.
                eventually(lambda: len(said()) >= log().count("dropping messages"), 60)
        # This time the producer is stopped before the broker is back.
        stack.stop_part("producer")
        accepted, dropped = map(int, re.findall(r"stopping after (\d+) readings; (\d+) more were dropped", log())[-1])
        unsent = int(re.findall(r"did not acknowledge (\d+) readings in time", log())[-1])
        stack.start_part("mosquitto")
        eventually(lambda: len(arrived) >= accepted - unsent)
    print(f"accepted {accepted}, dropped {dropped}, not sent {unsent}, arrived {len(arrived)}")
    assert len(arrived) == accepted - unsent
    assert unsent == 30
    assert dropped > sum(said()) > 0
    counted = re.findall(
        r"mqtt_delivery\.publisher\.dropped\n(?:.*\n)*?Value: (\d+)", stack.runtime.log_text("collector")
    )
    assert int(counted[-1]) == dropped
    stack.runtime.down()


def test_the_broker_is_killed(new_stack: NewStack) -> None:
    stack = new_stack(NotingStack, DEVICES="10", INTERVAL_SECONDS="0.2")
    stack.up()
    ledger = Ledger(stack)
    stack.stop_part("consumer")  # so that the broker holds readings when it is killed
    time.sleep(4)  # readings that the broker's store may or may not have
    os.kill(stack.pid("mosquitto"), signal.SIGKILL)
    eventually(lambda: ("mosquitto", "healthy") in states(stack))
    stack.start_part("consumer")
    time.sleep(2)  # readings after the restart
    stack.stop_part("producer")
    sent = producers_sent(stack)
    last = -1
    while (count := len(ledger.processed())) != last:
        last = count
        time.sleep(3)
    lost = sent - len(ledger.processed())
    print(f"sent {sent}, processed {len(ledger.processed())}, lost {lost}")
    # Mosquitto loses what came since it last wrote its store: it writes each second, later on a busy machine.
    assert 0 <= lost <= 5 * 50
    stack.runtime.down()


def test_the_network_of_the_consumer_stalls(new_stack: NewStack) -> None:
    stack = new_stack(NotingStack, DEVICES="1", INTERVAL_SECONDS="86400")
    stack.up()
    publisher = Publisher(stack)
    publisher.send(10)
    publisher.ledger.settle()
    consumer, broker = stack.pid("consumer"), stack.pid("mosquitto")
    os.kill(broker, signal.SIGSTOP)  # the connection stays open, but nothing arrives
    try:
        eventually(lambda: "stopping: " in stack.runtime.log_text("consumer"), 60)
    finally:
        os.kill(broker, signal.SIGCONT)
    eventually(lambda: stack.pid("consumer") not in (0, consumer))
    publisher.send(10)
    publisher.ledger.settle()
    publisher.close()
    stack.runtime.down()


class RecordingEcho(http.server.BaseHTTPRequestHandler):
    """Answers after different delays, and notes the order in which requests came."""

    received: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(random.uniform(0, 0.02))  # noqa: S311 (no secret)
        self.received.append(json.loads(body))
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the library's name)
        pass


def test_echo_gets_the_readings_of_a_device_in_their_order(new_stack: NewStack) -> None:
    stack = new_stack(NotingStack, DEVICES="1", INTERVAL_SECONDS="86400", WORKERS="8")
    stack.up()
    stack.stop_part("echo")
    publisher = Publisher(stack)
    handler = type("Handler", (RecordingEcho,), {"received": []})
    with serving(stack.settings.echo_port, handler):
        publisher.send(1000, devices=20)
        sent = set(publisher.ledger.sent)
        eventually(lambda: sent <= {taken["message_id"] for taken in handler.received}, 120)
    publisher.close()
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


def test_the_disk_of_the_broker_is_full(new_stack: NewStack) -> None:
    stack = new_stack(NotingStack, DEVICES="1", INTERVAL_SECONDS="86400")
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


class SelectiveEcho(http.server.BaseHTTPRequestHandler):
    """Fails for one device, at once or by a time-out, and notes how old the readings of the others are."""

    protocol_version = "HTTP/1.1"
    seconds: float
    ages: list[float]

    def do_POST(self) -> None:
        taken = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fails = taken["device_id"] == "poison"
        if fails:
            time.sleep(self.seconds)
        else:
            made = datetime.fromisoformat(taken["timestamp"])
            self.ages.append((datetime.now(UTC) - made).total_seconds())
        with contextlib.suppress(OSError):  # the consumer may have given up
            self.send_response(500 if fails else 200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the library's name)
        pass


# With the default settings; a time-out takes ECHO_TIMEOUT_SECONDS.
@pytest.mark.alone
@pytest.mark.parametrize(
    ("seconds", "devices"),
    [(0.0, 40), pytest.param(0.0, 20, marks=pytest.mark.long), pytest.param(4.0, 40, marks=pytest.mark.long)],
)
def test_a_device_that_always_fails_does_not_hold_up_the_others(
    new_stack: NewStack, seconds: float, devices: int
) -> None:
    stack = new_stack(NotingStack, DEVICES="1", INTERVAL_SECONDS="86400")
    stack.up()
    stack.stop_part("echo")
    publisher = Publisher(stack)
    handler = type("Handler", (SelectiveEcho,), {"seconds": seconds, "ages": []})
    p99: list[float] = []
    with serving(stack.settings.echo_port, handler):
        for poison in (False, True):
            handler.ages.clear()
            started, count = time.monotonic(), 10 * 2 * devices  # ten seconds, two readings a second of each
            for number in range(count):
                device = f"sensor-{number % devices:03}"
                publisher.send_now(device)
                if poison and number % devices == 0:
                    publisher.send_now("poison")
                time.sleep(max(0.0, started + number / (2 * devices) - time.monotonic()))
            eventually(lambda count=count: len(handler.ages) >= count, 60)
            p99.append(statistics.quantiles(handler.ages, n=100)[-1])
    eventually(lambda: len(publisher.ledger.dead_lettered()) > 0)
    print(
        f"{devices} devices, failing after {seconds} s: p99 without {p99[0]:.3f} s, with {p99[1]:.3f} s, "
        f"dead letters {sum(publisher.ledger.dead_lettered().values())} of 20"
    )
    # A busy machine is late even without the failing device.
    assert p99[1] < p99[0] + 2.0
    publisher.close()
    stack.runtime.down()


def waiting(buffer: Path) -> int:
    """The number of messages in the producer's buffer on disk; reads a copy, because the producer has locked it."""
    with tempfile.TemporaryDirectory() as folder:
        for file in buffer.parent.glob(f"{buffer.name}*"):
            shutil.copy(file, folder)
        with contextlib.closing(sqlite3.connect(Path(folder, buffer.name))) as database:
            return database.execute("SELECT count(*) FROM message").fetchone()[0]


def test_the_producer_is_killed_with_1000_readings_in_its_buffer_and_the_broker_away(
    new_stack: NewStack, tmp_path: Path
) -> None:
    buffer = tmp_path / "readings.db"
    stack = new_stack(NotingStack, DEVICES="20", INTERVAL_SECONDS="0.2", BUFFER_FILE=str(buffer))
    since = time.time_ns()
    stack.up()
    ledger = Ledger(stack)
    eventually(lambda: len(ledger.processed()) > 50)
    stack.stop_part("mosquitto")
    before = len(ledger.processed())
    eventually(lambda: waiting(buffer) >= 1000, 60)
    pid = stack.pid("producer")
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: stack.pid("producer") not in (0, pid))
    stack.start_part("mosquitto")
    # At least the first reading of each device after the restart has arrived too.
    eventually(lambda: Counter(device for _, device, number in ledger.taken() if number == "1").total() == 40, 60)
    assert len(ledger.processed()) > before + 1000
    stack.stop_part("producer")
    numbers: defaultdict[str, list[int]] = defaultdict(list)
    for _, device, number in ledger.taken():
        numbers[device].append(int(number))
    for device, of_device in numbers.items():
        # Before and after the restart of the producer: each in order, from 1 on, without a gap.
        second = of_device.index(1, 1)
        for life in (of_device[:second], of_device[second:]):
            assert life == list(range(1, len(life) + 1)), device
    assert ledger.processed().most_common(1)[0][1] == 1
    identifiers = [identifier for identifier, *_ in ledger.taken()][before : before + 1000]

    def traces(identifier: str) -> list[str]:
        return stack.viewer.trace_ids(since, time.time_ns(), ("messaging.message.id", identifier))

    one = [identifier for identifier in identifiers if len(eventually(lambda i=identifier: traces(i), 60)) == 1]
    print(f"buffered and sent {len(identifiers)}, each in one trace {len(one)}")
    assert len(one) == 1000
    spans = stack.viewer.trace(traces(identifiers[500])[0])
    assert sorted(span.kind for span in spans) == ["Client", "Consumer", "Internal", "Producer", "Server"]
    ledger.close()
    stack.runtime.down()
