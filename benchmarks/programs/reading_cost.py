"""What a reading costs a worker of the consumer in bytecode instructions: a count, so a busy machine does not matter.

From the moment it has the reading to the acknowledgement, with the request to echo in between.
"""

import json
import sys

import paho.mqtt.client as mqtt
from instructions import instructions
from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor

from benchmarks.readings import numbered_reading, traced_properties
from consumer.__main__ import new_consumer
from consumer.settings import Settings
from mqtt_delivery.acknowledgements import Delivery
from mqtt_delivery.workers import Lane
from service import load_settings
from telemetry import setup_telemetry, shutdown_telemetry

READINGS = 20


def received(number: int) -> mqtt.MQTTMessage:
    """A reading as it comes from the producer."""
    made = numbered_reading(number)
    message = mqtt.MQTTMessage(number + 1, f"sensors/{made['device_id']}/reading".encode())
    message.payload, message.qos = json.dumps(made).encode(), 1
    message.properties = traced_properties(made["device_id"])
    return message


def main() -> None:
    """Processes readings one by one, as the consumer's workers do, with a client that is not connected."""
    settings = load_settings(Settings)
    setup_telemetry("consumer")
    PahoMqttInstrumentor().instrument(process_spans=False, settle_spans=False)
    RequestsInstrumentor().instrument()
    consumer = new_consumer(settings, "cost")
    work, acknowledgements = consumer._workers._work, consumer._acknowledgements
    counts: list[int] = []
    for number in range(READINGS):
        message = received(number)
        lane, delivery = Lane(message.topic), Delivery(message, message.topic)
        if not acknowledgements.arrived(delivery):
            raise RuntimeError("a new reading counts as one that came before")
        counts.append(instructions(lambda lane=lane, delivery=delivery: work(lane, delivery)))
        if acknowledgements.count:
            raise RuntimeError("the reading is not acknowledged")
    shutdown_telemetry()
    sys.stdout.write(json.dumps({"instructions": min(counts)}) + "\n")


if __name__ == "__main__":
    main()
