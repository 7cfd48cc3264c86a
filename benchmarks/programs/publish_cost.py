"""What a reading costs the producer in bytecode instructions, from reading the sensor to the hand-over to paho."""

import json
import sys

from instructions import instructions
from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor

from mqtt_delivery import Publisher
from producer.__main__ import publish_reading, set_message_id
from producer.sensor import Sensor
from producer.settings import Settings
from service import load_settings
from telemetry import AS_IN_THE_GUIDE, setup_telemetry, shutdown_telemetry

READINGS = 20
TIMEOUT_SECONDS = 10.0


def main() -> None:
    """Publishes readings one by one, as the producer does, each after the acknowledgement of the one before."""
    settings = load_settings(Settings)
    setup_telemetry("producer", settings.resource)
    PahoMqttInstrumentor().instrument(**{**AS_IN_THE_GUIDE, "publish_hook": set_message_id})
    publisher, sensor = Publisher(settings.new_producer_client("-once"), settings.buffer_size), Sensor("sensor-001")
    publisher.connect(*settings.broker)
    counts: list[int] = []
    # The first one waits for the connection, and the network thread sends it.
    for _ in range(1 + READINGS):
        counts.append(instructions(lambda: publish_reading(publisher, sensor, settings)))
        if not publisher.wait_empty(TIMEOUT_SECONDS):
            raise TimeoutError("the broker does not acknowledge")
    publisher.close(TIMEOUT_SECONDS)
    shutdown_telemetry()
    sys.stdout.write(json.dumps({"instructions": min(counts[1:])}) + "\n")


if __name__ == "__main__":
    main()
