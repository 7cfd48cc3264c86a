"""Publishes the readings of simulated sensors, each in a trace of its own, through mqtt-delivery.

The instrumentation opens a span for each publish, and ends it when the broker has acknowledged the message.
"""

import argparse
import json
import logging
import time

from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor
from opentelemetry.trace import Span, format_trace_id
from paho.mqtt.properties import Properties

from mqtt_delivery import Publisher
from producer.sensor import Sensor
from producer.settings import Settings
from service import KEEPALIVE_SECONDS, StopSignal, load_settings, serve_health
from service.partitions import PARTITIONED_READINGS
from telemetry import AS_IN_THE_GUIDE, carrying_baggage, setup_telemetry, shutdown_telemetry

log = logging.getLogger("producer")


def set_message_id(span: Span, topic: str, payload: bytes, properties: Properties) -> None:
    """Publish hook: sets the reading's id, and the operation type that the guide uses, on the publish span."""
    span.set_attribute("messaging.message.id", json.loads(payload)["message_id"])
    span.set_attribute("messaging.operation.type", "publish")


def print_trace_id(span: Span, topic: str, payload: bytes, properties: Properties) -> None:
    """Publish hook of ``--once``: also prints the id of the trace that the reading starts, as a line of JSON."""
    set_message_id(span, topic, payload, properties)
    trace_id = format_trace_id(span.get_span_context().trace_id)
    print(json.dumps({"trace_id": trace_id, "message_id": json.loads(payload)["message_id"]}), flush=True)  # noqa: T201 (its output)


def publish_reading(publisher: Publisher, sensor: Sensor, settings: Settings) -> None:
    """Publishes a sensor's next reading; its baggage tells every service up to echo where it comes from."""
    with carrying_baggage({"sensor.id": sensor.device_id, "site.id": settings.site_id}):
        publisher.publish(sensor.topic, sensor.read())


def run_fleet(publisher: Publisher, settings: Settings, stop: StopSignal) -> None:
    """Publishes until told to stop; the sensors take turns, spread evenly over the interval."""
    sensors = [
        Sensor(f"sensor-{number:03}", partitions=settings.partitions) for number in range(1, settings.devices + 1)
    ]
    due, turn = time.monotonic(), 0
    while not stop.wait(min(1.0, max(0.0, due - time.monotonic()))):
        if publisher.healthy:
            settings.health_file.touch()
        if time.monotonic() >= due:
            publish_reading(publisher, sensors[turn % len(sensors)], settings)
            turn += 1
            due += settings.interval_seconds / len(sensors)
    log.info("stopping after %d readings; %d more were dropped", publisher.published, publisher.dropped)


def main() -> int:
    """Runs the fleet, or publishes one reading with ``--once``; returns the exit code."""
    parser = argparse.ArgumentParser(prog="producer", description="Publishes the readings of simulated sensors.")
    parser.add_argument("--once", action="store_true", help="publish one reading, print its trace id, and stop")
    once: bool = parser.parse_args().once
    settings, stop = load_settings(Settings), StopSignal()
    setup_telemetry("producer", settings.resource)
    hook, envelope = (
        print_trace_id if once else set_message_id,
        settings.json_envelope("sensors/+/reading", PARTITIONED_READINGS),
    )
    PahoMqttInstrumentor().instrument(**{**AS_IN_THE_GUIDE, "publish_hook": hook}, json_envelope=envelope)
    client = settings.new_producer_client("-once" if once else "")
    publisher = Publisher(client, settings.buffer_size, None if once else settings.buffer_file)
    publisher.connect(*settings.broker, KEEPALIVE_SECONDS)
    if once:
        publish_reading(publisher, Sensor("sensor-001", partitions=settings.partitions), settings)
    else:
        serve_health(settings, publisher)
        run_fleet(publisher, settings, stop)
    if left := publisher.close(timeout_seconds=4.0 if once else 1.0):
        log.error("the broker at %s:%d did not acknowledge %d readings in time", *settings.broker, left)
    shutdown_telemetry()
    return 1 if left or (once and publisher.dropped) else stop.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
