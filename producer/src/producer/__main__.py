"""Publishes the readings of a fleet of simulated sensors, each in a trace of its own.

The instrumentation does the tracing: it opens a span for each ``client.publish``, writes its context into the
message's MQTT 5 user properties, and closes the span when the broker has acknowledged the message.
"""

import argparse
import json
import logging
import time
from typing import Any
from uuid import uuid4

import paho.mqtt.client as mqtt
from opentelemetry import baggage
from opentelemetry.context import attach, detach
from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor
from opentelemetry.trace import Span, format_trace_id
from paho.mqtt.properties import Properties

from producer.outbox import Outbox
from producer.sensor import Sensor
from producer.settings import Settings
from service import KEEPALIVE_SECONDS, StopSignal, load_settings
from telemetry import setup_telemetry, shutdown_telemetry

log = logging.getLogger("producer")

# No acknowledgement for so long, on a connection that stands, is no ordinary delay.
STALL_SECONDS = 10.0


def set_message_id(span: Span, topic: str, payload: str, properties: Properties) -> None:
    """Publish hook: names the reading on its span, and the type of the operation as the guide does."""
    span.set_attribute("messaging.message.id", json.loads(payload)["message_id"])
    span.set_attribute("messaging.operation.type", "publish")


def print_trace_id(span: Span, topic: str, payload: str, properties: Properties) -> None:
    """Publish hook of ``--once``: also prints which trace the reading starts, as a line of JSON."""
    set_message_id(span, topic, payload, properties)
    trace_id = format_trace_id(span.get_span_context().trace_id)
    print(json.dumps({"trace_id": trace_id, "message_id": json.loads(payload)["message_id"]}), flush=True)  # noqa: T201 (its output)


def on_connect(client: mqtt.Client, userdata: None, flags: mqtt.ConnectFlags, reason_code: Any, *_: object) -> None:
    """Says whether the broker took the client in; if not, paho tries again."""
    if reason_code.is_failure:
        log.error("the broker refuses the connection: %s", reason_code)
    else:
        log.info("connected to the broker")


def new_client(settings: Settings, client_id: str) -> mqtt.Client:
    """Makes the client that publishes the readings."""
    client = settings.new_client(
        client_id,
        settings.mqtt_producer_username,
        settings.mqtt_producer_password,
        mqtt_5=settings.mqtt_protocol == "5",
    )
    client.on_connect = on_connect
    return client


def publish_reading(outbox: Outbox, sensor: Sensor, settings: Settings) -> None:
    """Publishes a sensor's next reading; baggage tells everyone on its way, as far as echo, where it comes from."""
    context = baggage.set_baggage("sensor.id", sensor.device_id)
    token = attach(baggage.set_baggage("site.id", settings.site_id, context))
    try:
        outbox.publish(sensor.topic, sensor.read())
    finally:
        detach(token)


def run_fleet(client: mqtt.Client, outbox: Outbox, settings: Settings, stop: StopSignal) -> None:
    """Publishes until told to stop; the sensors take turns, evenly spread over the interval."""
    sensors = [Sensor(f"sensor-{number:03}") for number in range(1, settings.devices + 1)]
    pause = settings.interval_seconds / len(sensors)
    due = time.monotonic()
    turn = 0
    while not stop.wait(min(1.0, max(0.0, due - time.monotonic()))):
        if client.is_connected() and outbox.stalled_seconds < STALL_SECONDS:
            settings.health_file.touch()
        outbox.send_again()
        if time.monotonic() < due:
            continue
        sensor = sensors[turn % len(sensors)]
        publish_reading(outbox, sensor, settings)
        turn += 1
        due += pause
    log.info("stopping after %d readings; %d more were dropped", outbox.published, outbox.dropped)


def main() -> int:
    """Runs the fleet, or publishes one reading with ``--once``; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="producer", description="Publishes the readings of a fleet of simulated sensors."
    )
    parser.add_argument("--once", action="store_true", help="publish one reading, print its trace id, and stop")
    once: bool = parser.parse_args().once
    settings = load_settings(Settings)
    stop = StopSignal()
    setup_telemetry("producer", settings.resource)
    PahoMqttInstrumentor().instrument(
        publish_hook=print_trace_id if once else set_message_id,
        topics_in_span_names=True,
        json_envelope=settings.json_envelope("sensors/+/reading"),
    )
    client = new_client(settings, f"producer-once-{uuid4()}" if once else "producer")
    outbox = Outbox(client, settings.buffer_size)
    # In the background: the broker may be away now or later.
    client.connect_async(settings.mqtt_host, settings.mqtt_port, KEEPALIVE_SECONDS)
    client.loop_start()
    try:
        if once:
            publish_reading(outbox, Sensor("sensor-001"), settings)
        else:
            run_fleet(client, outbox, settings, stop)
        if not outbox.wait_empty(timeout_seconds=4.0 if once else 1.0):
            broker = settings.mqtt_host, settings.mqtt_port
            log.error("the broker at %s:%d did not acknowledge %d readings in time", *broker, outbox.waiting)
            stop.exit_code = 1
    finally:
        client.disconnect()
        client.loop_stop()
        shutdown_telemetry()
    return stop.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
