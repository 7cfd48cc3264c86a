import json
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from requests.utils import check_header_validity

from consumer.echo import UUID, made_at, message_id
from consumer.settings import Settings
from mqtt_delivery import Message
from service import load_settings

IDENTIFIER = "6f1c9b1e-7c55-4d0a-8f61-3f5f8f0a6f5e"


def message(payload: bytes) -> Message:
    return Message("sensors/sensor-001/reading", payload, None)


def test_a_reading_has_an_id_and_a_time() -> None:
    reading = message(json.dumps({"message_id": IDENTIFIER, "timestamp": "2026-01-01T00:00:00Z"}).encode())
    assert message_id(reading) == IDENTIFIER
    assert made_at(reading) == datetime(2026, 1, 1, tzinfo=UTC)


@given(st.binary() | st.text().map(lambda text: json.dumps({"message_id": text}).encode()))
def test_no_payload_gives_a_header_that_cannot_be_sent(payload: bytes) -> None:
    try:
        found = message_id(message(payload))
    except Exception:  # mqtt-delivery treats this as no id
        return
    if isinstance(found, str) and UUID.fullmatch(found):
        check_header_validity(("Idempotency-Key", found))


@pytest.mark.parametrize("value", [" " + IDENTIFIER, IDENTIFIER + "\n", IDENTIFIER.replace("-", ""), "x", ""])
def test_what_is_no_plain_uuid_is_no_key(value: str) -> None:
    assert not UUID.fullmatch(value)


@pytest.mark.parametrize("value", ["a/b", "+", "a#", "a\nb", "x" * 101])
def test_a_share_name_that_would_break_the_filter_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    monkeypatch.setenv("SHARE_NAME", value)
    with pytest.raises(SystemExit):
        load_settings(Settings)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"SHARE_NAME is {value!r}; it must be 1 to 100 characters without / + # or a control character"


@pytest.mark.parametrize("value", ["not a url", "ftp://echo/", "http://"])
def test_a_wrong_echo_url_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    monkeypatch.setenv("ECHO_URL", value)
    with pytest.raises(SystemExit):
        load_settings(Settings)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"ECHO_URL is {value!r}; it must be an http:// or https:// URL"


def test_mqtt_3_keeps_its_session_by_the_clean_session_flag() -> None:
    client: Any = Settings(mqtt_consumer_protocol="3.1.1").new_consumer_client("mine", "user")
    assert (client.protocol, client._clean_session) == (mqtt.MQTTv311, False)


def partitioned(partitions: int, consumers: int, ordinal: int) -> Settings:
    return Settings(
        partitions=partitions,
        consumers=consumers,
        consumer_ordinal=ordinal,
        mqtt_client_id="consumer-p{partition}",
        mqtt_consumer_username="user-{partition}",
    )


@given(st.data())
def test_each_partition_has_one_owner_and_each_consumer_a_partition(data: st.DataObject) -> None:
    partitions = data.draw(st.integers(1, 16))
    consumers = data.draw(st.integers(1, partitions))
    owned = [list(partitioned(partitions, consumers, ordinal).own_partitions) for ordinal in range(consumers)]
    assert sorted(chain.from_iterable(owned)) == list(range(partitions))
    assert all(owned)


def test_a_partition_has_the_same_session_whoever_owns_it() -> None:
    one, three = partitioned(8, 1, 0), partitioned(8, 3, 2)
    assert one.session_of(5) == three.session_of(5) == ("consumer-p5", "user-5")
    assert one.filter_of("consumer-p5") == "sensors/5/+/reading"
    # One that is left from before.
    assert one.filter_of("consumer-2") == "sensors/+/reading"
    assert three.delivery["consumers"] == 1


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"PARTITIONS": "0"}, "PARTITIONS is '0'; it must be a number of partitions, 1 to 16"),
        ({"PARTITIONS": "17"}, "PARTITIONS is '17'; it must be a number of partitions, 1 to 16"),
        ({"PARTITIONS": "2", "CONSUMERS": "3"}, "CONSUMERS is 3; it must be up to 2, which is PARTITIONS"),
        (
            {"PARTITIONS": "4", "CONSUMERS": "3", "CONSUMER_ORDINAL": "3"},
            "CONSUMER_ORDINAL is 3; it must be less than CONSUMERS, 3",
        ),
        (
            {"PARTITIONS": "4", "MQTT_CLIENT_ID": "consumer"},
            "MQTT_CLIENT_ID is 'consumer'; with PARTITIONS it must have {partition} in it",
        ),
    ],
)
def test_wrong_partitions_are_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variables: dict[str, str], line: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        load_settings(Settings)
    assert capsys.readouterr().err == f"{line}\n"
