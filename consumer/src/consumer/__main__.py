"""Continues the trace of each reading: a process span, and inside it the HTTP request to echo.

The network thread hands each message to a worker; the worker opens the process span, a child of the producer's publish
span, sends the reading to echo, and only then the broker gets its acknowledgement.
"""

import argparse

from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.trace import Span
from paho.mqtt.client import MQTTMessage
from paho.mqtt.properties import Properties

from consumer.consumer import Consumer
from consumer.measurements import Measurements
from consumer.processing import message_id
from consumer.settings import Settings
from service import StopSignal, load_settings
from telemetry import setup_telemetry, shutdown_telemetry


def set_message_id(span: Span, message: MQTTMessage) -> None:
    """Process hook: names the reading on its span."""
    if identifier := message_id(bytes(message.payload)):
        span.set_attribute("messaging.message.id", identifier)


def set_operation_type(span: Span, topic: str, payload: bytes, properties: Properties) -> None:
    """Publish hook, of dead letters: the type of the operation as the guide names it."""
    span.set_attribute("messaging.operation.type", "publish")


def main() -> int:
    """Consumes until told to stop, or ends sessions with ``--leave``; returns the exit code."""
    parser = argparse.ArgumentParser(prog="consumer", description="Hands readings from MQTT to echo.")
    parser.add_argument(
        "--leave",
        nargs="+",
        metavar="CLIENT_ID",
        help="process what the sessions of these consumers still hold, end the sessions, and stop",
    )
    leaving: list[str] = parser.parse_args().leave or []
    settings = load_settings(Settings)
    stop = StopSignal()
    setup_telemetry("consumer")
    # No span around the hand-over: processing.py opens it where the work is.
    PahoMqttInstrumentor().instrument(
        publish_hook=set_operation_type,
        process_hook=set_message_id,
        process_spans=False,
        settle_spans=False,
        topics_in_span_names=True,
        json_envelope=settings.json_envelope(settings.topic_filter),
    )
    RequestsInstrumentor().instrument()
    measurements = Measurements(settings.silent_seconds)
    if leaving:
        for client_id in leaving:
            Consumer(settings, client_id, stop, measurements).leave()
    else:
        Consumer(settings, settings.mqtt_client_id, stop, measurements).run()
    shutdown_telemetry()
    return stop.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
