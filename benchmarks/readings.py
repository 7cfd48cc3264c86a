"""Readings, and the way they come to the broker."""

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from harness import Stack, reading

DEVICES = 100


def numbered_reading(number: int, **more: object) -> dict[str, object]:
    """A reading of one of a hundred devices."""
    return reading(device_id=f"sensor-{number % DEVICES:03}", sequence=number, **more)


def traced_properties(device_id: object, trace_id: str | None = None) -> Properties:
    """The user properties that the producer writes: the context of a sampled trace, and baggage."""
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = [
        ("traceparent", f"00-{trace_id or secrets.token_hex(16)}-{secrets.token_hex(8)}-01"),
        ("baggage", f"sensor.id={device_id},site.id=site-001"),
    ]
    return properties


@contextmanager
def connected(stack: Stack, role: str, client_id: str = "", clean_start: bool = True) -> Iterator[mqtt.Client]:
    """A connected client of raw paho, as the operator, who may use any client id, or as a consumer."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5)
    password = getattr(stack.settings, f"mqtt_{role}_password").get_secret_value()
    client.username_pw_set(getattr(stack.settings, f"mqtt_{role}_username") + client_id.removeprefix(role), password)
    client.max_inflight_messages_set(1000)
    answered = Event()
    client.on_connect = lambda *_: answered.set()
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 3600 if client_id else 0
    client.connect("127.0.0.1", stack.settings.mqtt_port, clean_start=clean_start, properties=properties)
    client.loop_start()
    answered.wait(10)
    yield client
    client.disconnect()
    client.loop_stop()


def publish(stack: Stack, count: int, **more: object) -> None:
    """Publishes readings as fast as the broker acknowledges them."""
    with connected(stack, "operator") as client:
        infos: list[mqtt.MQTTMessageInfo] = []
        for number in range(count):
            made = numbered_reading(number, **more)
            topic = f"sensors/{made['device_id']}/reading"
            infos.append(client.publish(topic, json.dumps(made), 1, properties=traced_properties(made["device_id"])))
        for info in infos:
            info.wait_for_publish(60)


def queue_up(stack: Stack, count: int, sessions: tuple[str, ...] = ("consumer",), **more: object) -> None:
    """Publishes so many readings into the consumer's session, where they wait at the broker."""
    topic_filter = "sensors/+/reading" if len(sessions) == 1 else "$share/consumers/sensors/+/reading"
    for session in sessions:
        with connected(stack, "consumer", session) as client:
            subscribed = Event()
            client.on_subscribe = lambda *_, subscribed=subscribed: subscribed.set()
            client.subscribe(topic_filter, 1)
            subscribed.wait(10)
    publish(stack, count, **more)
