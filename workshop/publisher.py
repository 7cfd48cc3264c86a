"""Publishes one reading in a trace of its own; the options make it the reading that an exercise needs."""

import argparse
import json
import os
import random
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import paho.mqtt.client as mqtt
from opentelemetry import baggage, trace
from opentelemetry.context import attach
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, format_trace_id
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties


def print_ids(span: Span, topic: str, payload: str, properties: Properties) -> None:
    """Publish hook: adds the id of the reading to its span, and prints the ids of reading and trace."""
    message_id = json.loads(payload)["message_id"]
    span.set_attribute("messaging.message.id", message_id)
    print(f"reading {message_id} in trace {format_trace_id(span.get_span_context().trace_id)}")


def new_reading(device: str) -> dict[str, object]:
    """A reading that echo accepts."""
    return {
        "message_id": str(uuid4()),
        "device_id": device,
        "sequence": 1,
        "timestamp": datetime.now(UTC).isoformat(),
        "temperature_c": 20.5,
        "humidity_pct": 45.0,
    }


def main() -> None:
    """Publishes the reading, and with QoS 1 waits for the PUBACK."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="workshop-001", help="whose reading it is")
    parser.add_argument("--qos", type=int, choices=(0, 1), default=1)
    parser.add_argument("--broken", action="store_true", help="one value is not what echo takes")
    parser.add_argument("--baggage", action="append", default=[], metavar="NAME=VALUE", help="may be repeated")
    options = parser.parse_args()

    provider = TracerProvider(resource=Resource.create({"service.name": "publisher"}))
    collector = f"http://127.0.0.1:{os.environ.get('OTLP_GRPC_PORT', '4317')}"
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(collector)))
    trace.set_tracer_provider(provider)
    PahoMqttInstrumentor().instrument(publish_hook=print_ids)

    reading = new_reading(options.device)
    if options.broken:
        reading[random.choice(("sequence", "timestamp", "temperature_c", "humidity_pct"))] = "?"  # noqa: S311 (no secret)
    for entry in options.baggage:
        name, _, value = entry.partition("=")
        attach(baggage.set_baggage(name, value))
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.username_pw_set("operator", "operator-secret")

    def on_connect(*_: Any) -> None:
        client.publish(f"sensors/{options.device}/reading", json.dumps(reading), options.qos)

    def on_publish(*_: Any) -> None:
        client.disconnect()

    client.on_connect = on_connect
    client.on_publish = on_publish
    port = int(os.environ.get("MQTT_PORT", "1883"))
    try:
        client.connect("127.0.0.1", port)
    except OSError as error:
        raise SystemExit(f"no broker answers at 127.0.0.1:{port} ({error}); `make ps` shows what runs") from None
    client.loop_forever()


if __name__ == "__main__":
    main()
