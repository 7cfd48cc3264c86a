"""Continues the trace of each reading: a process span, and inside it the HTTP request to echo.

The network thread hands each message to a worker; the worker opens the process span, a child of the producer's publish
span, sends the reading to echo, and only then the broker gets its acknowledgement.
"""

import logging

from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.trace import Span
from paho.mqtt.client import MQTTMessage

from consumer.acknowledgements import Acknowledgements
from consumer.dead_letters import DeadLetters
from consumer.echo import Echo
from consumer.measurements import Measurements
from consumer.processing import Processor, message_id
from consumer.settings import Settings
from consumer.subscription import Subscription
from consumer.workers import Workers
from service import StopSignal, load_settings
from telemetry import setup_telemetry, shutdown_telemetry

log = logging.getLogger("consumer")


def set_message_id(span: Span, message: MQTTMessage) -> None:
    """Process hook: names the reading on its span."""
    if identifier := message_id(bytes(message.payload)):
        span.set_attribute("messaging.message.id", identifier)


def main() -> int:
    """Consumes until told to stop; returns the exit code."""
    settings = load_settings(Settings)
    stop = StopSignal()
    setup_telemetry("consumer")
    # No span around the hand-over: processing.py opens it where the work is.
    PahoMqttInstrumentor().instrument(
        process_hook=set_message_id, process_spans=False, json_envelope=settings.json_envelope(settings.topic_filter)
    )
    RequestsInstrumentor().instrument()

    client = settings.new_client(
        settings.mqtt_client_id, settings.mqtt_consumer_username, settings.mqtt_consumer_password, manual_ack=True
    )
    acknowledgements = Acknowledgements(client)
    measurements = Measurements(settings.silent_seconds)
    processor = Processor(client, Echo(settings, stop), DeadLetters(client, stop), acknowledgements, measurements)
    workers = Workers(settings.workers, processor.handle, settings.batch_size, settings.batch_seconds)
    subscription = Subscription(settings, client, workers, acknowledgements)
    subscription.connect()

    while not stop.wait(1.0):
        if subscription.healthy:
            settings.health_file.touch()
        elif client.is_connected() and subscription.silent:
            log.critical("nothing comes from the broker although the connection stands; stopping to be started again")
            return 1

    # What is here is finished; the broker keeps the rest for the next start.
    subscription.stop_accepting()
    workers.stop(timeout_seconds=settings.echo_timeout_seconds)
    client.disconnect()
    client.loop_stop()
    shutdown_telemetry()
    return stop.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
