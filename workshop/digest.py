"""Prints the average of five readings; OpenTelemetry is set up, but the work on the batch has no span."""

import json
import os
from collections.abc import Sequence
from typing import Any

import paho.mqtt.client as mqtt
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from paho.mqtt.enums import CallbackAPIVersion

READINGS = 5
received: list[mqtt.MQTTMessage] = []


def on_connect(client: mqtt.Client, *_: Any) -> None:
    """Subscribes, also after each reconnect."""
    client.subscribe("sensors/+/reading", qos=1)


def on_message(client: mqtt.Client, userdata: None, message: mqtt.MQTTMessage) -> None:
    """Keeps a reading; after the last one, works on all of them."""
    received.append(message)
    if len(received) == READINGS:
        summarise(received)
        client.disconnect()


def summarise(messages: Sequence[mqtt.MQTTMessage]) -> None:
    """The work on a batch."""
    temperatures = [json.loads(message.payload)["temperature_c"] for message in messages]
    print(f"{len(temperatures)} readings, {sum(temperatures) / len(temperatures):.1f} °C on average")


def main() -> None:
    """Subscribes, and ends after one batch."""
    provider = TracerProvider(resource=Resource.create({"service.name": "digest"}))
    collector = f"http://127.0.0.1:{os.environ.get('OTLP_GRPC_PORT', '4317')}"
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(collector)))
    trace.set_tracer_provider(provider)
    # on_message only keeps a reading, which needs no span.
    PahoMqttInstrumentor().instrument(process_spans=False)
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.username_pw_set("operator", "operator-secret")
    client.on_connect = on_connect
    client.on_message = on_message
    client.connect("127.0.0.1", int(os.environ.get("MQTT_PORT", "1883")))
    client.loop_forever()


if __name__ == "__main__":
    main()
