"""Connects to a broker and disconnects; the attributes of the span show what the broker grants."""

import os
from typing import Any

import paho.mqtt.client as mqtt
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

# The time for which the program asks the broker to keep the session.
SESSION_SECONDS = 3600
# The meaning of a property that is absent from the CONNACK (MQTT 5.0, 3.2.2.3).
DEFAULTS = {
    "ReceiveMaximum": 65535,
    "SessionExpiryInterval": SESSION_SECONDS,
    "SharedSubscriptionAvailable": 1,
    "RetainAvailable": 1,
}
tracer = trace.get_tracer("visitor")


def on_connect(client: mqtt.Client, userdata: None, flags: Any, reason_code: Any, properties: Any) -> None:
    """Called when the CONNACK arrives; ``properties`` are its properties."""
    sent = properties.json()
    with tracer.start_as_current_span("connect") as span:
        for name, value in sent.items():
            span.set_attribute(f"mqtt.connack.{name}", value)
    granted = DEFAULTS | sent
    print(f"RECEIVE_MAXIMUM={granted['ReceiveMaximum']}")
    print(f"SESSION_SECONDS={granted['SessionExpiryInterval']}")
    print(f"SHARED={'yes' if granted['SharedSubscriptionAvailable'] else 'no'}")
    print(f"RETAINED={'yes' if granted['RetainAvailable'] else 'no'}")
    # Nobody uses this session again.
    end = Properties(PacketTypes.DISCONNECT)
    end.SessionExpiryInterval = 0
    client.disconnect(properties=end)


def main() -> None:
    """Connects without a client id."""
    provider = TracerProvider(resource=Resource.create({"service.name": "visitor"}))
    collector = f"http://127.0.0.1:{os.environ.get('OTLP_GRPC_PORT', '4317')}"
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(collector)))
    trace.set_tracer_provider(provider)
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.username_pw_set("operator", "operator-secret")
    client.on_connect = on_connect
    asked = Properties(PacketTypes.CONNECT)
    asked.SessionExpiryInterval = SESSION_SECONDS
    client.connect(os.environ.get("MQTT_HOST", "127.0.0.1"), int(os.environ.get("MQTT_PORT", "1883")), properties=asked)
    client.loop_forever()


if __name__ == "__main__":
    main()
