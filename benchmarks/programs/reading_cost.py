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
from consumer.__main__ import set_message_id
from consumer.acknowledgements import Acknowledgements
from consumer.dead_letters import DeadLetters
from consumer.echo import Echo
from consumer.measurements import Measurements
from consumer.processing import Processor
from consumer.settings import Settings
from service import StopSignal, load_settings
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
    """Processes readings one by one, as the consumer's parts do, on a client that nobody has connected."""
    settings, stop = load_settings(Settings), StopSignal()
    setup_telemetry("consumer")
    PahoMqttInstrumentor().instrument(process_hook=set_message_id, process_spans=False, settle_spans=False)
    RequestsInstrumentor().instrument()
    client = settings.new_client("cost", "nobody", settings.mqtt_consumer_password, manual_ack=True)
    acknowledgements = Acknowledgements(client)
    measurements = Measurements(settings.silent_seconds)
    processor = Processor(client, Echo(settings, stop), DeadLetters(client, stop), acknowledgements, measurements)
    counts: list[int] = []
    for number in range(READINGS):
        delivery = acknowledgements.arrived(received(number))
        if delivery is None:
            raise RuntimeError("a new reading counts as one that came before")
        counts.append(instructions(lambda delivery=delivery: processor.handle([delivery])))
        if not acknowledgements.complete:
            raise RuntimeError("the reading is not acknowledged")
    shutdown_telemetry()
    sys.stdout.write(json.dumps({"instructions": min(counts)}) + "\n")


if __name__ == "__main__":
    main()
