"""Hands each reading to echo, in the trace of the reading, and loses none; Ctrl-C ends it."""

import os
import signal
import sys
import threading

import paho.mqtt.client as mqtt
import requests
from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from paho.mqtt.enums import CallbackAPIVersion
from tracing import set_up

from mqtt_delivery import Consumer, Message, check_answer

ECHO_URL = f"http://127.0.0.1:{os.environ.get('ECHO_PORT', '8080')}/echo"


def handle(message: Message) -> None:
    """Runs in a thread, inside the process span; the HTTP request becomes a child of that."""
    headers = {"Content-Type": "application/json"}
    answer = requests.post(ECHO_URL, message.payload, headers=headers, timeout=3)
    check_answer(answer, "echo")


def main() -> None:
    """Works until it is stopped; the broker keeps the other messages for the next start."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    set_up("worker")
    # No span around the hand-over to a thread: the consumer opens it around handle().
    PahoMqttInstrumentor().instrument(process_spans=False)
    RequestsInstrumentor().instrument()
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="worker", protocol=mqtt.MQTTv5)
    client.username_pw_set("operator", "operator-secret")
    consumer = Consumer(client, "sensors/+/reading", handle)
    consumer.connect("127.0.0.1", int(os.environ.get("MQTT_PORT", "1883")))
    sys.exit(0 if consumer.run(stop) else 1)


if __name__ == "__main__":
    main()
