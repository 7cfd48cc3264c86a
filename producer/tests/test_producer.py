import json
import re
from datetime import datetime
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    assert Sensor("sensor-001", partitions=4).topic == "sensors/3/sensor-001/reading"


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


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("MQTT_PORT", "0", "MQTT_PORT is '0'; it must be a TCP port, 1 to 65535"),
        ("DEVICES", "none", "DEVICES is 'none'; it must be a number of sensors, 1 to 100000"),
        ("PARTITIONS", "0", "PARTITIONS is '0'; it must be a number of partitions, 1 to 16"),
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


def test_its_client_id_is_the_users() -> None:
    client: Any = Settings(mqtt_producer_client_id="mine").new_producer_client("-once")
    assert client._client_id == b"mine-once"
