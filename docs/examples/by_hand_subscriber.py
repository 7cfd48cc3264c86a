"""Receives one reading in the trace that its publisher began, by hand: without the instrumentation."""

import json
import os
from typing import Any

import paho.mqtt.client as mqtt
from opentelemetry import trace
from opentelemetry.propagate import extract
from opentelemetry.trace import SpanKind
from paho.mqtt.enums import CallbackAPIVersion
from tracing import set_up

TOPIC = "sensors/own-001/reading"
tracer = trace.get_tracer("by hand")


def on_message(client: mqtt.Client, userdata: None, message: mqtt.MQTTMessage) -> None:
    """Reads the context that came with the message, and handles the message in a span below it."""
    fields = dict(getattr(message.properties, "UserProperty", []))
    with tracer.start_as_current_span(f"process {message.topic}", extract(fields), kind=SpanKind.CONSUMER):
        print("received", json.loads(message.payload)["temperature_c"], "°C with", fields)
    client.disconnect()


def on_connect(client: mqtt.Client, *_: Any) -> None:
    """Subscribes."""
    client.subscribe(TOPIC, qos=1)


def on_subscribe(*_: Any) -> None:
    """Says that the broker has confirmed the subscription: readings arrive from now on."""
    print("subscribed to", TOPIC, flush=True)


def main() -> None:
    """Connects, and ends after one reading."""
    set_up("by-hand-subscriber")
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.username_pw_set("operator", "operator-secret")
    client.on_connect = on_connect
    client.on_subscribe = on_subscribe
    client.on_message = on_message
    client.connect("127.0.0.1", int(os.environ.get("MQTT_PORT", "1883")))
    client.loop_forever()


if __name__ == "__main__":
    main()
