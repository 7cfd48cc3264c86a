"""The plain sample of the guide: the work in ``on_message``, a process span by hand, a connection for each request."""

from typing import Any

import paho.mqtt.client as mqtt
from opentelemetry import trace
from opentelemetry.propagate import extract
from opentelemetry.trace import SpanKind

from benchmarks.programs.compared import Work, connect_properties
from consumer.settings import Settings
from service import load_settings


def main() -> None:
    """Processes the readings of the consumer's session."""
    settings = load_settings(Settings)
    work, tracer = Work(settings), trace.get_tracer("guide")

    def on_message(client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        parent = extract(dict(getattr(message.properties, "UserProperty", [])))
        attributes = {
            "messaging.system": "mqtt",
            "messaging.destination.name": message.topic,
            "messaging.operation.type": "process",
        }
        name = f"process {message.topic}"
        with tracer.start_as_current_span(name, parent, kind=SpanKind.CONSUMER, attributes=attributes):
            work(message.topic, bytes(message.payload))

    def on_connect(client: mqtt.Client, *_: object) -> None:
        client.subscribe(settings.topic_filter, 1)

    client = settings.new_client("consumer", settings.mqtt_consumer_username, settings.mqtt_consumer_password)
    client.on_message = on_message
    client.on_connect = on_connect
    client.connect(settings.mqtt_host, settings.mqtt_port, clean_start=False, properties=connect_properties(settings))
    client.loop_forever()


if __name__ == "__main__":
    main()
