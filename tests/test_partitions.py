"""The readings of each device come to echo in order while partitions go from one consumer to another."""

import json
import os
import signal
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from harness import eventually, reading
from ledger import PROCESSED, QUIET, Ledger, NewStack, NotingStack
from service.partitions import reading_topic

PARTITIONS = 8
DEVICES = [f"sensor-{number:03}" for number in range(1, 21)]
READINGS_A_SECOND = 200


class Load:
    """Publishes the readings of the devices in turn, until it is closed."""

    def __init__(self, stack: NotingStack) -> None:
        self.ledger = Ledger(stack)
        self.counts = dict.fromkeys(DEVICES, 0)
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        password = stack.settings.mqtt_operator_password.get_secret_value()
        self._client.username_pw_set(stack.settings.mqtt_operator_username, password)
        self._client.connect("127.0.0.1", stack.settings.mqtt_port)
        self._client.loop_start()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._publish)
        self._thread.start()

    def _publish(self) -> None:
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            for device in DEVICES:
                sent = reading(device_id=device, sequence=self.counts[device])
                self.counts[device] += 1
                self.ledger.sent.append(str(sent["message_id"]))
                self._client.publish(reading_topic(device, PARTITIONS), json.dumps(sent), qos=1)
            due += len(DEVICES) / READINGS_A_SECOND

    def taken_after_now(self, count: int) -> None:
        """Waits until echo has taken this many more readings."""
        before = len(self.ledger.taken())
        eventually(lambda: len(self.ledger.taken()) >= before + count, 60)

    def stop(self) -> None:
        """Publishes no more."""
        self._stop.set()
        self._thread.join()

    def close(self) -> None:
        """Stops, and waits until no reading is missing."""
        self.stop()
        self.ledger.settle(120)
        self._client.disconnect()
        self._client.loop_stop()
        self.ledger.close()

    def first_arrivals(self) -> dict[str, list[int]]:
        """The numbers of each device's readings, in the order in which echo took them for the first time."""
        sent = set(self.ledger.sent)
        numbers: defaultdict[str, list[int]] = defaultdict(list)
        for message_id, device, number in self.ledger.taken():
            if message_id in sent:
                numbers[device].append(int(number))
        return numbers


def with_consumers(stack: NotingStack, count: int) -> None:
    """Runs ``make up`` again with another number of consumers."""
    scaled = NotingStack(stack.settings.run_dir, **stack.values | {"CONSUMERS": str(count)})
    scaled.up()


@contextmanager
def not_updated_yet(stack: NotingStack) -> Iterator[None]:
    """One more consumer, which knows of no other: it takes every partition, as in the middle of a rolling update."""
    described = json.loads((stack.settings.run_dir / "parts" / "consumer.json").read_text())
    environment = described["environment"] | {"CONSUMERS": "1", "HEALTH_FILE": str(stack.settings.run_dir / "extra")}
    log = stack.settings.run_dir / "logs" / "extra.log"
    with log.open("w") as output, subprocess.Popen(described["command"], env=environment, stderr=output) as process:
        try:
            eventually(lambda: PROCESSED.search(log.read_text()))
            yield
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def partitioned(new_shared_stack: NewStack) -> NotingStack:
    stack = new_shared_stack(NotingStack, PARTITIONS=str(PARTITIONS), **QUIET)
    stack.up()
    return stack


def test_a_reading_is_one_trace(partitioned: NotingStack) -> None:
    since = time.time_ns()
    done = partitioned.run("verify")
    assert done.returncode == 0, done.stdout + done.stderr
    topic = reading_topic("sensor-001", PARTITIONS)
    spans = partitioned.spans_of("messaging.destination.name", topic, 4, since)
    process = next(span for span in spans if span.kind == "Consumer")
    partition = topic.split("/")[1]
    assert process.attributes["messaging.destination.template"] == f"sensors/{partition}/+/reading"
    assert process.attributes["messaging.client.id"] == f"consumer-p{partition}"


def test_each_device_stays_in_order_from_one_to_three_to_two_consumers(partitioned: NotingStack) -> None:
    load = Load(partitioned)
    try:
        load.taken_after_now(400)
        with_consumers(partitioned, 3)
        load.taken_after_now(1000)
        names = ("consumer", "consumer-2", "consumer-3")
        assert all(PROCESSED.search(partitioned.runtime.log_text(name)) for name in names)

        pid = partitioned.pid("consumer-2")
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: partitioned.pid("consumer-2") not in (0, pid))
        load.taken_after_now(1000)

        with not_updated_yet(partitioned):
            # Long enough for the others to take their partitions back, and to lose them again.
            load.taken_after_now(12 * READINGS_A_SECOND)
        with_consumers(partitioned, 2)
        load.taken_after_now(1000)
    finally:
        load.close()
    print(f"delivered a second time {len(load.ledger.taken('again'))}")
    assert load.first_arrivals() == {device: list(range(count)) for device, count in load.counts.items()}
    assert load.ledger.twice() == 0
    assert not load.ledger.dead_lettered()


def left_at_the_broker(stack: NotingStack) -> Load:
    """Readings that wait in the sessions of partitions, because no consumer runs."""
    for part in ("consumer", "consumer-2"):
        stack.stop_part(part)
    load = Load(stack)
    try:
        eventually(lambda: len(load.ledger.sent) >= 300)
    finally:
        load.stop()
    assert len(load.ledger.lost()) == len(load.ledger.sent)
    return load


def test_leaving_ends_the_session_of_a_partition_without_a_loss(partitioned: NotingStack) -> None:
    load = left_at_the_broker(partitioned)
    described = json.loads((partitioned.settings.run_dir / "parts" / "consumer.json").read_text())
    for holds in (True, False):
        names = [f"consumer-p{number}=consumer-p{number}" for number in range(PARTITIONS)]
        command = [*described["command"], "--leave", *names]
        done = subprocess.run(command, env=described["environment"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("unsubscribing; processing") == holds * PARTITIONS
    load.close()
    assert load.first_arrivals() == {device: list(range(count)) for device, count in load.counts.items()}


def test_another_number_of_partitions_loses_nothing(partitioned: NotingStack) -> None:
    """Runs last, because it leaves the stack without partitions."""
    with_consumers(partitioned, 2)
    load = left_at_the_broker(partitioned)
    values = {name: value for name, value in partitioned.values.items() if name != "PARTITIONS"}
    without = NotingStack(partitioned.settings.run_dir, **values)
    without.up()
    load.close()
    assert load.first_arrivals() == {device: list(range(count)) for device, count in load.counts.items()}
    assert without.runtime.log_text("leave").count("unsubscribing; processing") == PARTITIONS
    # Once is enough.
    without.up()
    assert without.runtime.log_text("leave").count("unsubscribing; processing") == PARTITIONS
    assert without.run("verify").returncode == 0
