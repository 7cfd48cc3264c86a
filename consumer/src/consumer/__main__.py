"""Continues the trace of each reading: a process span, and inside it the HTTP request to echo.

The instrumentation does the tracing: it reads the context from the message's MQTT 5 user properties and runs
``on_message`` inside a span that is a child of the producer's.
"""

import json
import logging
from typing import Any

import paho.mqtt.client as mqtt
import requests
from opentelemetry import trace
from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.trace import Span, StatusCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from consumer.settings import Settings
from service import StopSignal, load_settings
from telemetry import setup_telemetry, shutdown_telemetry

log = logging.getLogger("consumer")

# How long the broker keeps readings for a consumer that is away.
SESSION_EXPIRY_SECONDS = 3600


def message_id(payload: bytes) -> str | None:
    """The reading's id, if the payload is a reading at all."""
    try:
        reading = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    value = reading.get("message_id") if isinstance(reading, dict) else None
    # A lone surrogate is legal in JSON, but no exporter can encode it.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None


def set_message_id(span: Span, message: mqtt.MQTTMessage) -> None:
    """Process hook: names the reading on its span."""
    if identifier := message_id(message.payload):
        span.set_attribute("messaging.message.id", identifier)


class Consumer:
    """Subscribes to the readings and hands each to echo."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._http = requests.Session()
        self.subscribed = False
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="consumer", protocol=mqtt.MQTTv5)
        self.client.username_pw_set(settings.mqtt_consumer_username, settings.mqtt_consumer_password.get_secret_value())
        self.client.reconnect_delay_set(min_delay=1, max_delay=30)
        self.client.on_connect = self.on_connect
        self.client.on_subscribe = self.on_subscribe
        self.client.on_disconnect = self.on_disconnect
        self.client.on_message = self.on_message

    def connect(self) -> None:
        """Connects in the background, to a session that outlives the connection."""
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = SESSION_EXPIRY_SECONDS
        host, port = self._settings.mqtt_host, self._settings.mqtt_port
        self.client.connect_async(host, port, clean_start=False, properties=properties)
        self.client.loop_start()

    def on_connect(self, client: mqtt.Client, userdata: None, flags: Any, reason_code: Any, properties: Any) -> None:
        """Subscribes, on each connection anew."""
        if reason_code.is_failure:
            log.error("the broker refuses the connection: %s", reason_code)
        else:
            client.subscribe(self._settings.topic_filter, qos=1)

    def on_subscribe(self, client: mqtt.Client, userdata: None, mid: int, reason_codes: Any, properties: Any) -> None:
        """Says whether the broker will deliver."""
        self.subscribed = not any(code.is_failure for code in reason_codes)
        if self.subscribed:
            log.info("subscribed to %s", self._settings.topic_filter)
        else:
            log.error("the broker refuses the subscription to %s: %s", self._settings.topic_filter, reason_codes)

    def on_disconnect(self, *_: object) -> None:
        """Paho connects again by itself."""
        self.subscribed = False

    def on_message(self, client: mqtt.Client, userdata: None, message: mqtt.MQTTMessage) -> None:
        """Hands one reading to echo; runs inside its process span."""
        span = trace.get_current_span()
        try:
            response = self._http.post(
                str(self._settings.echo_url),
                data=message.payload,
                headers={"Content-Type": "application/json"},
                timeout=5,
            )
            if response.ok:
                log.info("processed a reading on %s", message.topic)
            else:
                log.warning("echo refuses a reading on %s: %s", message.topic, response.text[:500])
                span.set_attribute("error.type", str(response.status_code))
                span.set_status(StatusCode.ERROR, f"echo answered {response.status_code}")
        except requests.RequestException as error:
            log.error("echo did not answer: %s", error)
            span.record_exception(error)
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(StatusCode.ERROR, "echo did not answer")


def main() -> int:
    """Consumes until told to stop; returns the exit code."""
    settings = load_settings(Settings)
    stop = StopSignal()
    setup_telemetry("consumer")
    PahoMqttInstrumentor().instrument(process_hook=set_message_id)
    RequestsInstrumentor().instrument()
    consumer = Consumer(settings)
    consumer.connect()
    while not stop.wait(1.0):
        if consumer.subscribed:
            settings.health_file.touch()
    # Ends after the message that is being handled; the broker keeps the rest for the next start.
    consumer.client.disconnect()
    consumer.client.loop_stop()
    shutdown_telemetry()
    return stop.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
