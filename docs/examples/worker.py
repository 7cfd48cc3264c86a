"""Takes three readings from the network thread and hands each to echo, in the trace of the reading."""

import os
from queue import SimpleQueue
from typing import Any

import paho.mqtt.client as mqtt
import requests
from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor, process_span
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from paho.mqtt.enums import CallbackAPIVersion
from tracing import set_up

ECHO_URL = f"http://127.0.0.1:{os.environ.get('ECHO_PORT', '8080')}/echo"
messages: SimpleQueue[mqtt.MQTTMessage] = SimpleQueue()


def on_connect(client: mqtt.Client, *_: Any) -> None:
    """Subscribes; after each reconnect, too."""
    client.subscribe("sensors/+/reading", qos=1)


def on_message(client: mqtt.Client, userdata: None, message: mqtt.MQTTMessage) -> None:
    """Only hands over, so that the network thread is free for the next message."""
    messages.put(message)


def work(client: mqtt.Client) -> None:
    """Processes one message inside its process span; the HTTP request becomes a child of that."""
    message = messages.get()
    with process_span(message, client=client):
        headers = {"Content-Type": "application/json"}
        requests.post(ECHO_URL, bytes(message.payload), headers=headers, timeout=3).raise_for_status()


def main() -> None:
    """Subscribes, and ends after three readings."""
    set_up("worker")
    # on_message has no span of its own: the one of work() tells how long the work took.
    PahoMqttInstrumentor().instrument(process_spans=False)
    RequestsInstrumentor().instrument()
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.username_pw_set("operator", "operator-secret")
    client.on_connect = on_connect
    client.on_message = on_message
    client.connect("127.0.0.1", int(os.environ.get("MQTT_PORT", "1883")))
    client.loop_start()
    for _ in range(3):
        work(client)
    client.disconnect()
    client.loop_stop()


if __name__ == "__main__":
    main()
