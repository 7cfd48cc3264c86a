import json
import re
from datetime import datetime
from itertools import pairwise
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import MQTT_ERR_QUEUE_SIZE, MQTT_ERR_SUCCESS

from producer.outbox import Outbox
from producer.sensor import Sensor, drift
from producer.settings import Settings
from service import load_settings


def test_a_reading_has_the_documented_fields() -> None:
    sensor = Sensor("sensor-001")
    reading = json.loads(sensor.read())
    assert list(reading) == ["message_id", "device_id", "sequence", "timestamp", "temperature_c", "humidity_pct"]
    assert UUID(reading["message_id"]).version == 4
    assert (reading["device_id"], reading["sequence"]) == ("sensor-001", 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", reading["timestamp"])
    assert datetime.fromisoformat(reading["timestamp"]).tzinfo
    assert sensor.topic == "sensors/sensor-001/reading"


def test_readings_count_up_and_differ() -> None:
    sensor = Sensor("sensor-001")
    readings = [json.loads(sensor.read()) for _ in range(100)]
    assert [reading["sequence"] for reading in readings] == list(range(1, 101))
    assert len({reading["message_id"] for reading in readings}) == 100


def test_values_drift_plausibly_for_a_day() -> None:
    sensor = Sensor("sensor-001")
    values = [json.loads(sensor.read()) for _ in range(43_200)]
    temperatures = [reading["temperature_c"] for reading in values]
    assert all(15 < value < 27 for value in temperatures)
    assert all(20 < reading["humidity_pct"] < 70 for reading in values)
    assert len(set(temperatures)) > 10
    assert max(abs(after - before) for before, after in pairwise(temperatures)) < 2


@given(st.floats(-50, 50))
def test_drift_pulls_back(value: float) -> None:
    mean = sum(drift(value, towards=21.0, step=0.2) for _ in range(200)) / 200
    assert abs(mean - 21.0) <= abs(value - 21.0) + 0.2


ACCEPTED = SimpleNamespace(is_failure=False, value=0)


class FakeClient:
    """A client that acknowledges when it is told to."""

    def max_queued_messages_set(self, size: int) -> None:
        self.size = size

    on_publish: Any = None
    rc = MQTT_ERR_SUCCESS

    def __init__(self) -> None:
        self.published: list[tuple[str, str]] = []

    def publish(self, topic: str, payload: str, qos: int) -> Any:
        self.published.append((topic, payload))
        return SimpleNamespace(rc=self.rc, mid=len(self.published))


def test_the_outbox_waits_for_every_acknowledgement() -> None:
    client: Any = FakeClient()
    outbox = Outbox(client, 10)
    outbox.publish("t", "1")
    outbox.publish("t", "2")
    client.on_publish(client, None, 1, ACCEPTED, None)
    assert not outbox.wait_empty(0.01)
    client.on_publish(client, None, 2, ACCEPTED, None)
    assert outbox.wait_empty(0.01)


def test_the_outbox_does_not_wait_for_what_was_refused() -> None:
    client: Any = FakeClient()
    client.rc = MQTT_ERR_QUEUE_SIZE
    outbox = Outbox(client, 10)
    outbox.publish("t", "1")
    assert outbox.wait_empty(0.01)


def test_an_acknowledgement_before_publish_returns_is_counted() -> None:
    client: Any = FakeClient()

    def publish(*_: object, **__: object) -> SimpleNamespace:
        client.on_publish(client, None, 1, ACCEPTED)
        return SimpleNamespace(rc=0, mid=1)

    client.publish = publish
    outbox = Outbox(client, 10)
    outbox.publish("t", "1")
    assert outbox.wait_empty(0.01)


NOBODY = SimpleNamespace(is_failure=False, value=0x10)


def test_a_reading_that_nobody_is_subscribed_to_is_sent_again(caplog: pytest.LogCaptureFixture) -> None:
    client: Any = FakeClient()
    outbox = Outbox(client, 10)
    outbox.publish("t", "1")
    client.on_publish(client, None, 1, NOBODY, None)
    assert "nobody is subscribed" in caplog.text
    assert outbox.waiting == 1
    outbox.send_again()
    assert client.published == [("t", "1"), ("t", "1")]
    client.on_publish(client, None, 2, ACCEPTED, None)
    assert (outbox.waiting, outbox.published, outbox.dropped) == (0, 1, 0)


def test_readings_that_nobody_is_subscribed_to_fill_the_buffer_and_no_more() -> None:
    client: Any = FakeClient()
    outbox = Outbox(client, 3)
    for number in range(1, 4):
        outbox.publish("t", str(number))
        client.on_publish(client, None, number, NOBODY, None)
    outbox.publish("t", "4")
    assert (outbox.waiting, outbox.published, outbox.dropped) == (3, 3, 1)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("MQTT_PORT", "0", "MQTT_PORT is '0'; it must be a TCP port, 1 to 65535"),
        ("DEVICES", "none", "DEVICES is 'none'; it must be a number of sensors, 1 to 100000"),
        ("INTERVAL_SECONDS", "0", "INTERVAL_SECONDS is '0'; it must be the seconds between two readings of a sensor"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        load_settings(Settings)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(expected)
