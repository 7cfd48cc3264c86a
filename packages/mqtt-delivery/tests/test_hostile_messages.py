"""Whatever one device sends, the others must not notice."""

import logging
import time

import hypothesis
import pytest
from delivery_harness import (
    Broker,
    Handled,
    between,
    connected,
    consuming,
    eventually,
    publish,
    user_properties,
    values,
)
from hypothesis import strategies as st
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from paho.mqtt.exception import MalformedPacket
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties, VariableByteIntegers

from mqtt_delivery.received_properties import unpack

BOM = "\ufeff"


def properties(**values: object) -> Properties:
    made = Properties(PacketTypes.PUBLISH)
    for name, value in values.items():
        setattr(made, name, value)
    return made


def read(packed: bytes) -> Properties:
    return unpack(Properties(PacketTypes.PUBLISH), packed)[0]


# ------------------------------------------------------------------ the reader

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=50)


@hypothesis.given(
    st.lists(st.tuples(TEXTS, TEXTS)),
    st.fixed_dictionaries(
        {},
        optional={
            "ContentType": TEXTS,
            "ResponseTopic": TEXTS,
            "CorrelationData": st.binary(max_size=50),
            "MessageExpiryInterval": st.integers(0, 2**32 - 1),
            "PayloadFormatIndicator": st.integers(0, 1),
            "TopicAlias": st.integers(1, 65_535),
            "SubscriptionIdentifier": st.lists(st.integers(1, 268_435_455), min_size=1, max_size=3),
        },
    ),
    st.binary(max_size=20),
)
def test_what_paho_writes_is_read(pairs: list[tuple[str, str]], values: dict[str, object], payload: bytes) -> None:
    written = properties(**values)
    if pairs:
        written.UserProperty = pairs
    packed = written.pack()
    found = Properties(PacketTypes.PUBLISH)
    assert unpack(found, packed + payload) == (found, len(packed))
    assert vars(found) == vars(written)


@hypothesis.given(st.binary(max_size=100))
def test_anything_else_is_malformed(packed: bytes) -> None:
    try:
        found, length = unpack(Properties(PacketTypes.PUBLISH), packed)
    except MalformedPacket:
        return
    assert length <= len(packed)
    assert len(found.pack()) <= length


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        (b"\x05\x26\x00\x01a", "longer than their packet"),
        (b"\x05\x03\x00\x09ab", "longer than all of them"),
        (b"\x05\x03\x00\x01a\x01\x01", "longer than all of them"),
        (b"\x02\x0b\x80\x01", "Not enough data"),
        (b"\x08\x03\x00\x01a\x03\x00\x01b", "ContentType twice"),
        (b"\x02\x24\x01", "MaximumQoS in a packet that has no such property"),
        (b"\x02\x7f\x01", "cannot be read"),
        (b"\x04\x03\x00\x01\x00", r"U\+0000"),
        (b"\x06\x03\x00\x03\xed\xa0\x80", "cannot be read"),
        (b"\xff\xff\xff\xff\x01", "four bytes"),
        (b"", "Not enough data"),
        (b"\x02\x01\x07", "must be 0 or 1"),
    ],
)
def test_why_it_is_malformed_is_said(packed: bytes, reason: str) -> None:
    with pytest.raises(MalformedPacket, match=reason):
        read(packed)


def test_many_properties_take_no_more_than_their_number() -> None:
    def seconds(count: int) -> float:
        pairs = b"\x26\x00\x00\x00\x00" * count
        packed = VariableByteIntegers.encode(len(pairs)) + pairs
        started = time.process_time()
        assert len(vars(read(packed))["UserProperty"]) == count
        return time.process_time() - started

    seconds(1_000)
    # paho's own reader takes over 30 s for this many. Ten times as many must not take a hundred times as long.
    assert seconds(131_070) < 40 * max(seconds(13_107), 0.001)


# ------------------------------------------------------------------ on a real broker


@pytest.mark.parametrize(
    "given",
    [
        {"UserProperty": [("x", BOM), (BOM, "y")]},
        {"ContentType": f"{BOM}application/json"},
        {"ResponseTopic": f"answers/{BOM}"},
    ],
    ids=["user property", "content type", "response topic"],
)
def test_a_byte_order_mark_is_a_character_like_others(broker: Broker, topic: str, given: dict[str, object]) -> None:
    handled = Handled()
    with consuming(broker, topic, handled), connected(broker) as (client, _):
        publish(client, topic, b"marked", properties=properties(**given))
        publish(client, topic, b"next")
        eventually(lambda: handled.payloads == [b"marked", b"next"])
    for name, value in given.items():
        assert getattr(handled.messages[0].properties, name) == value


def test_too_long_a_topic_is_a_dead_letter_at_once(
    broker: Broker, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    handled = Handled()
    long = f"{topic}/{'long' * 10_000}/reading"
    with consuming(broker, f"{topic}/#", handled), connected(broker, "dead-letter/#") as (client, dead):
        publish(client, long, b"far away", properties=properties(UserProperty=[("a", "b")]))
        publish(client, f"{topic}/short", b"next")
        eventually(lambda: dead and handled.messages)
    assert handled.payloads == [b"next"]
    assert dead[0].topic == f"dead-letter/{topic}/{'long' * 16}/reading"
    found = user_properties(dead[0])
    assert (found["a"], found["dead-letter-topic"]) == ("b", long)
    assert "more than 1024" in found["dead-letter-reason"]
    assert dead[0].payload == b"far away"
    assert max(len(record.getMessage()) for record in caplog.records) < 1_000


def test_too_many_user_properties_are_a_dead_letter_at_once(broker: Broker, topic: str) -> None:
    handled = Handled()
    with consuming(broker, topic, handled), connected(broker, f"dead-letter/{topic}") as (client, dead):
        publish(client, topic, b"many", properties=properties(UserProperty=[("a", "b")] * 101))
        publish(client, topic, b"enough", properties=properties(UserProperty=[("a", "b")] * 100))
        eventually(lambda: dead and handled.messages)
    assert handled.payloads == [b"enough"]
    assert user_properties(dead[0])["dead-letter-reason"] == "it has 101 user properties, more than 100"


def test_the_broker_sends_nothing_larger_than_the_consumer_takes(broker: Broker, topic: str) -> None:
    handled = Handled()
    with (
        consuming(broker, topic, handled, maximum_packet_size=1000),
        connected(broker) as (client, _),
    ):
        publish(client, topic, b"x" * 1001, b"next")
        eventually(lambda: handled.payloads == [b"next"])


def test_retained_messages_are_not_processed_once_more(broker: Broker, topic: str) -> None:
    handled = Handled()
    with connected(broker) as (client, _):
        client.publish(topic, b"kept", qos=1, retain=True).wait_for_publish(10)
        for _ in range(3):
            with consuming(broker, topic, handled):
                publish(client, topic, b"new")
                eventually(lambda: handled.payloads and handled.payloads[-1] == b"new")
        client.publish(topic, b"", qos=1, retain=True).wait_for_publish(10)
    assert b"kept" not in handled.payloads


# ------------------------------------------------------------------ what is truly malformed


def test_a_malformed_packet_is_said_counted_and_unhealthy(
    broker: Broker, topic: str, caplog: pytest.LogCaptureFixture, reader: InMemoryMetricReader
) -> None:
    handled = Handled()
    with (
        between(broker.port, lambda data: data.replace(b"SPOILT", b"\xff" * 6)) as spoiling,
        consuming(broker, topic, handled, port=spoiling.port) as consumer,
        connected(broker) as (client, _),
    ):
        publish(client, topic, b"reading", properties=properties(UserProperty=[("x", "SPOILT")]))
        eventually(lambda: not consumer.healthy and "nothing gets through" in caplog.text)
        lines = [record for record in caplog.records if "malformed" in record.getMessage()]
        assert [record.levelno for record in lines] == [logging.ERROR] * 2
        assert "properties that cannot be read" in lines[0].getMessage()
        assert values(reader)["mqtt_delivery.consumer.malformed_packets"][0] >= 3
        spoiling.active = False
        eventually(lambda: handled.payloads == [b"reading"])
