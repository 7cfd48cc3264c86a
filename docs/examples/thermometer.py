"""Publishes one reading, without any tracing."""

import json
import os
from datetime import UTC, datetime
from uuid import uuid4

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion


def main() -> None:
    """Connects, publishes, waits for the PUBACK, and disconnects."""
    reading = {
        "message_id": str(uuid4()),
        "device_id": "plain-001",
        "sequence": 1,
        "timestamp": datetime.now(UTC).isoformat(),
        "temperature_c": 20.5,
        "humidity_pct": 45.0,
    }
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.username_pw_set("operator", "operator-secret")
    client.connect("127.0.0.1", int(os.environ.get("MQTT_PORT", "1883")))
    client.loop_start()
    client.publish("sensors/plain-001/reading", json.dumps(reading), qos=1).wait_for_publish(timeout=10)
    client.disconnect()
    client.loop_stop()


if __name__ == "__main__":
    main()
