"""Says which of five readings are warm, each in the trace that its publisher began: traced by hand."""

import json
import os
from itertools import count
from typing import Any

import paho.mqtt.client as mqtt
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import extract
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind
from paho.mqtt.enums import CallbackAPIVersion

READINGS = 5
judged = count(1)
tracer = trace.get_tracer("alerter")


def on_connect(client: mqtt.Client, *_: Any) -> None:
    """Subscribes, also after each reconnect."""
    client.subscribe("sensors/+/reading", qos=1)


def on_message(client: mqtt.Client, userdata: None, message: mqtt.MQTTMessage) -> None:
    """Judges a reading inside its process span, a child of the publish span; disconnects after the last."""
    user_properties = getattr(message.properties, "UserProperty", [])
    with tracer.start_as_current_span(
        f"process {message.topic}",
        context=extract(dict(user_properties)),
        kind=SpanKind.CONSUMER,
        attributes={
            "messaging.system": "mqtt",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": message.topic,
        },
    ):
        judge(message)
    if next(judged) == READINGS:
        client.disconnect()


def judge(message: mqtt.MQTTMessage) -> None:
    """Prints whether it is warm."""
    reading = json.loads(message.payload)
    print(reading["device_id"], "is warm" if reading["temperature_c"] > 21 else "is fine")


def main() -> None:
    """Subscribes, and ends after five readings."""
    provider = TracerProvider(resource=Resource.create({"service.name": "alerter"}))
    collector = f"http://127.0.0.1:{os.environ.get('OTLP_GRPC_PORT', '4317')}"
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(collector)))
    trace.set_tracer_provider(provider)
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.username_pw_set("operator", "operator-secret")
    client.on_connect = on_connect
    client.on_message = on_message
    client.connect("127.0.0.1", int(os.environ.get("MQTT_PORT", "1883")))
    client.loop_forever()


if __name__ == "__main__":
    main()
