"""The memory of messages that wait in a consumer is limited, whatever the broker sends ahead."""

import threading

import paho.mqtt.client as mqtt
import pytest
from delivery_harness import Broker, Handled, connected, consuming, eventually, new_client, publish
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from mqtt_delivery import Consumer, Message
from mqtt_delivery.bounds import Bounds

names = st.text(max_size=50)


@given(
    topic=st.text(min_size=1, max_size=200),
    payload=st.binary(max_size=2000),
    user_properties=st.lists(st.tuples(names, names), max_size=100),
    receive_maximum=st.integers(1, 65_535),
    most_user_properties=st.integers(0, 100),
)
def test_a_broker_that_keeps_to_receive_maximum_is_never_refused(
    topic: str,
    payload: bytes,
    user_properties: list[tuple[str, str]],
    receive_maximum: int,
    most_user_properties: int,
) -> None:
    message = mqtt.MQTTMessage(1, topic.encode())
    message.payload = payload
    message.properties = Properties(PacketTypes.PUBLISH)
    message.properties.UserProperty = user_properties
    packet_bytes = 2 + len(message._topic) + 2 + len(message.properties.pack()) + len(payload)
    bounds = Bounds(receive_maximum, packet_bytes, 65_535, most_user_properties)
    bounds.refusal(message)
    assert receive_maximum * bounds.bytes_of(message) <= bounds.held_bytes


@pytest.mark.parametrize("failing", [False, True], ids=["all well", "one fails"])
@pytest.mark.parametrize("protocol", [mqtt.MQTTv5, mqtt.MQTTv311], ids=["5", "3.1.1"])
def test_what_the_broker_sends_too_far_ahead_is_left_to_it(
    own_broker: Broker, topic: str, caplog: pytest.LogCaptureFixture, protocol: MQTTProtocolVersion, failing: bool
) -> None:
    own_broker.stop()
    # With MQTT 3.1.1 it sends all messages at once; Mosquitto 2.0.11 does so with MQTT 5 too, after the first
    # acknowledgement.
    own_broker.settings += ["max_inflight_messages 0"]
    own_broker.start()
    held: list[int] = []

    def does(message: Message) -> None:
        held.append(consumer._acknowledgements.held_bytes)
        if failing and message.topic.endswith("/bad"):
            raise ConnectionError("away")
        threading.Event().wait(0.001)

    def new_consumer(handled: Handled) -> Consumer:
        client = new_client(topic, protocol, clean_session=False if protocol == mqtt.MQTTv311 else None)
        return Consumer(client, f"{topic}/+", handled, receive_maximum=50)

    first = new_consumer(Handled()).connect("127.0.0.1", own_broker.port)
    eventually(lambda: first.healthy)
    first.stop()
    count = 400
    with connected(own_broker, f"dead-letter/{topic}/+") as (client, dead):
        # Four times as much as may wait.
        for number in range(count):
            publish(client, f"{topic}/{'bad' if number == 20 else 'good'}", b"%d " % number + bytes(60_000))
        handled = Handled(does)
        consumer = new_consumer(handled)
        consumer.connect("127.0.0.1", own_broker.port)
        eventually(lambda: len(set(handled.payloads)) + len(dead) >= count)
        consumer.stop()
    # The connection that is cut may take acknowledgements with it: those messages come again, few.
    numbers = [int(payload.split()[0]) for payload in dict.fromkeys(handled.payloads)]
    assert len(handled.payloads) - len(numbers) <= 10
    assert [number for number in numbers if number != 20] == [number for number in range(count) if number != 20]
    assert numbers.count(20) == (not failing)
    assert len(dead) == failing
    assert "the connection to the broker is lost" not in caplog.text
    assert max(held) <= 8 * 2**20 + 100_000
    assert caplog.text.count("over 8 MiB wait") <= 1
    if protocol == mqtt.MQTTv311:
        assert "over 8 MiB wait" in caplog.text


def test_a_flood_with_qos_0_is_bounded_too(own_broker: Broker, topic: str) -> None:
    gate = threading.Event()
    held: list[int] = []

    def does(message: Message) -> None:
        gate.wait(60)
        held.append(consumer._acknowledgements.held_bytes)

    handled = Handled(does)
    with (
        consuming(own_broker, f"{topic}/+", handled, receive_maximum=50) as consumer,
        connected(own_broker) as (client, _),
    ):
        for _ in range(1000):
            client.publish(f"{topic}/a", bytes(60_000))
        publish(client, f"{topic}/a", b"counts")
        gate.set()
        eventually(lambda: b"counts" in handled.payloads)
    assert max(held) <= 8 * 2**20 + 100_000
    assert len(handled.payloads) < 1000
