"""Judges three readings, each in the trace that its publisher began."""

import json
import os
from itertools import count
from typing import Any

import paho.mqtt.client as mqtt
from opentelemetry import trace
from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor
from paho.mqtt.enums import CallbackAPIVersion
from tracing import set_up

tracer = trace.get_tracer("subscriber")
judged = count(1)


def on_connect(client: mqtt.Client, *_: Any) -> None:
    """Subscribes; after each reconnect, too."""
    client.subscribe("sensors/+/reading", qos=1)


def on_message(client: mqtt.Client, userdata: None, message: mqtt.MQTTMessage) -> None:
    """Runs inside the process span, so its own span becomes a child of that one."""
    with tracer.start_as_current_span("judge temperature") as span:
        span.set_attribute("reading.warm", json.loads(message.payload)["temperature_c"] > 25)
    if next(judged) == 3:
        client.disconnect()


def main() -> None:
    """Subscribes, and ends after three readings."""
    set_up("subscriber")
    PahoMqttInstrumentor().instrument()
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.username_pw_set("operator", "operator-secret")
    client.on_connect = on_connect
    client.on_message = on_message
    client.connect("127.0.0.1", int(os.environ.get("MQTT_PORT", "1883")))
    client.loop_forever()


if __name__ == "__main__":
    main()
