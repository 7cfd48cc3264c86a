"""Prints one reading, without any tracing."""

import os
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion


def on_connect(client: mqtt.Client, *_: Any) -> None:
    """Subscribes; after each reconnect, too."""
    client.subscribe("sensors/+/reading", qos=1)


def on_message(client: mqtt.Client, userdata: None, message: mqtt.MQTTMessage) -> None:
    """Prints the reading and disconnects."""
    print(message.topic, message.payload.decode())
    client.disconnect()


def main() -> None:
    """Subscribes, and ends after a reading."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.username_pw_set("operator", "operator-secret")
    client.on_connect = on_connect
    client.on_message = on_message
    client.connect("127.0.0.1", int(os.environ.get("MQTT_PORT", "1883")))
    client.loop_forever()


if __name__ == "__main__":
    main()
