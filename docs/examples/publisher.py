"""Publishes one reading in a trace of its own."""

import json
import os
import threading
from datetime import UTC, datetime
from uuid import uuid4

import paho.mqtt.client as mqtt
from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor
from opentelemetry.trace import Span
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from tracing import set_up


def set_message_id(span: Span, topic: str, payload: str, properties: Properties) -> None:
    """Publish hook: the instrumentation does not read payloads, so it does not know the id."""
    span.set_attribute("messaging.message.id", json.loads(payload)["message_id"])


def new_reading() -> str:
    """A reading as echo takes it."""
    return json.dumps(
        {
            "message_id": str(uuid4()),
            "device_id": "own-001",
            "sequence": 1,
            "timestamp": datetime.now(UTC).isoformat(),
            "temperature_c": 20.5,
            "humidity_pct": 45.0,
        }
    )


def main() -> None:
    """Connects, publishes, waits for the PUBACK, and disconnects."""
    set_up("publisher")
    PahoMqttInstrumentor().instrument(publish_hook=set_message_id)
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.username_pw_set("operator", "operator-secret")
    connected = threading.Event()
    client.on_connect = lambda *_: connected.set()
    client.connect("127.0.0.1", int(os.environ.get("MQTT_PORT", "1883")))
    client.loop_start()
    connected.wait(timeout=10)
    client.publish("sensors/own-001/reading", new_reading(), qos=1).wait_for_publish(timeout=10)
    client.disconnect()
    client.loop_stop()


if __name__ == "__main__":
    main()
