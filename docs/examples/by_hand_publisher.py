"""Publishes one reading in a trace of its own, by hand: without the instrumentation."""

import os
import threading

import paho.mqtt.client as mqtt
from opentelemetry import trace
from opentelemetry.propagate import inject
from opentelemetry.trace import SpanKind
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from publisher import new_reading
from tracing import set_up

tracer = trace.get_tracer("by hand")


def publish(client: mqtt.Client, topic: str, payload: str) -> None:
    """Opens the publish span, and sends its context along with the message."""
    with tracer.start_as_current_span(f"publish {topic}", kind=SpanKind.PRODUCER):
        fields: dict[str, str] = {}
        inject(fields)
        properties = Properties(PacketTypes.PUBLISH)
        properties.UserProperty = list(fields.items())
        client.publish(topic, payload, qos=1, properties=properties).wait_for_publish(timeout=10)


def main() -> None:
    """Connects, publishes, and disconnects."""
    set_up("by-hand-publisher")
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.username_pw_set("operator", "operator-secret")
    connected = threading.Event()
    client.on_connect = lambda *_: connected.set()
    client.connect("127.0.0.1", int(os.environ.get("MQTT_PORT", "1883")))
    client.loop_start()
    connected.wait(timeout=10)
    publish(client, "sensors/own-001/reading", new_reading())
    client.disconnect()
    client.loop_stop()


if __name__ == "__main__":
    main()
