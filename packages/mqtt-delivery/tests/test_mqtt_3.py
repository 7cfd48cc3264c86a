"""A consumer with MQTT 3.1.1, which has no Receive Maximum, no session expiry and no properties."""

import threading
from collections import Counter

import paho.mqtt.client as mqtt
import pytest
from delivery_harness import Broker, Handled, connected, eventually, new_client, publish
from paho.mqtt.enums import CallbackAPIVersion

from mqtt_delivery import Consumer, Message, Reject


def old_client(client_id: str, clean_session: bool = False) -> mqtt.Client:
    return new_client(client_id, mqtt.MQTTv311, clean_session)


def old_consumer(broker: Broker, topic: str, handle: Handled, **options: object) -> Consumer:
    consumer = Consumer(old_client(topic), f"{topic}/+", handle, **options)  # pyright: ignore[reportArgumentType] (options of a test)
    consumer.connect("127.0.0.1", broker.port)
    eventually(lambda: consumer.healthy)
    return consumer


def test_messages_are_handled_retried_and_moved_to_the_dead_letters(broker: Broker, topic: str) -> None:
    def does(message: Message) -> None:
        assert message.user_properties == []
        if message.payload == b"again" and message.attempt == 1:
            raise ConnectionError("away")
        if message.payload == b"bad":
            raise Reject("no")

    handled = Handled(does)
    with connected(broker, f"dead-letter/{topic}/+") as (client, dead):
        # It was retained before the subscription, so it must not reach the handler, as with MQTT 5.
        client.publish(f"{topic}/kept", b"kept", qos=1, retain=True).wait_for_publish(10)
        consumer = old_consumer(broker, topic, handled)
        publish(client, f"{topic}/a", b"again", b"bad", b"good")
        eventually(lambda: dead and len(handled.messages) == 2)
        client.publish(f"{topic}/kept", b"", qos=1, retain=True).wait_for_publish(10)
        consumer.stop()
        publish(client, f"{topic}/a", b"meanwhile")
        again = old_consumer(broker, topic, handled)
        eventually(lambda: len(handled.messages) == 4)
        again.stop()
    assert handled.payloads == [b"again", b"good", b"", b"meanwhile"]
    assert [letter.payload for letter in dead] == [b"bad"]


def test_a_session_is_left(broker: Broker, topic: str) -> None:
    handled = Handled()
    old_consumer(broker, topic, handled, consumers=2, share_name="old").stop()
    with connected(broker) as (client, _):
        publish(client, f"{topic}/a", *(b"%d" % number for number in range(100)))
    options = {"consumers": 2, "share_name": "old"}
    leaving = Consumer(old_client(topic), f"{topic}/+", handled, **options)
    assert leaving.leave(threading.Event(), "127.0.0.1", broker.port)
    assert Counter(handled.payloads) == Counter(b"%d" % number for number in range(100))
    present: list[bool] = []
    again = old_client(topic)
    again.on_connect = lambda _client, _userdata, flags, *_: present.append(flags.session_present)
    again.connect("127.0.0.1", broker.port)
    again.loop_start()
    eventually(lambda: present)
    again.disconnect()
    again.loop_stop()
    assert present == [False]


def test_it_needs_a_session() -> None:
    with pytest.raises(ValueError, match="clean_session=False"):
        Consumer(old_client("a", clean_session=True), "a", Handled())
    with pytest.raises(ValueError, match="MQTTv31 "):
        Consumer(mqtt.Client(CallbackAPIVersion.VERSION2, "a", protocol=mqtt.MQTTv31), "a", Handled())
    Consumer(new_client(), "a", Handled())
