"""What is done with a reading: it goes to echo, or to the dead letters, and is acknowledged only then."""

import json
import logging
from typing import Any

import paho.mqtt.client as mqtt
from opentelemetry.instrumentation.paho_mqtt import process_batch, process_span
from opentelemetry.trace import Span, StatusCode

from consumer.acknowledgements import Acknowledgements, Delivery
from consumer.dead_letters import DeadLetters, topic_of
from consumer.echo import Echo, EchoError
from consumer.measurements import Measurements

log = logging.getLogger(__name__)


def parse(payload: bytes) -> Any:
    """The JSON value of a payload, or None."""
    try:
        return json.loads(payload)
    except (ValueError, RecursionError):
        return None


def message_id(payload: bytes) -> str | None:
    """The reading's id, if the payload is a reading at all."""
    reading = parse(payload)
    value = reading.get("message_id") if isinstance(reading, dict) else None
    # A lone surrogate is legal in JSON, but nothing can encode it.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None


def header_value(identifier: str | None) -> str | None:
    """The id as an HTTP header can carry it, or None."""
    return identifier if identifier and identifier.isascii() and identifier.isprintable() else None


class Processor:
    """Processes deliveries; called by several threads, each with deliveries of its own devices."""

    def __init__(
        self,
        client: mqtt.Client,
        echo: Echo,
        dead_letters: DeadLetters,
        acknowledgements: Acknowledgements,
        measurements: Measurements,
    ) -> None:
        self._client = client
        self._echo = echo
        self._dead_letters = dead_letters
        self._acknowledgements = acknowledgements
        self._measurements = measurements

    def handle(self, deliveries: list[Delivery]) -> None:
        """Processes one reading in its process span, or several in one span that is linked to each."""
        for delivery in deliveries:
            self._measurements.taken_up(delivery.message.topic)
        if len(deliveries) > 1 and self._handle_batch([delivery.message for delivery in deliveries]):
            for delivery in deliveries:
                self._acknowledgements.done(delivery)
            return
        for delivery in deliveries:
            if self._handle_one(delivery.message):
                self._acknowledgements.done(delivery)

    def _handle_one(self, message: mqtt.MQTTMessage) -> bool:
        """Whether the reading is where it belongs; if not, the broker keeps it."""
        payload = bytes(message.payload)
        identifier = message_id(payload)
        with process_span(message, client=self._client) as span:
            try:
                self._echo.send(payload, header_value(identifier))
            except EchoError as error:
                return self._dead_letter(span, message, error)
            except Exception as error:  # whatever it is, it must not stop the consumer
                log.exception("a reading on %s cannot be processed", message.topic)
                return self._dead_letter(span, message, error)
            span.add_event("echo.accepted")
            self._measurements.processed(parse(payload))
            log.info("processed reading %s on %s", identifier, message.topic)
            return True

    def _handle_batch(self, messages: list[mqtt.MQTTMessage]) -> bool:
        """Whether echo took all of them at once; if not, they are tried one by one."""
        payloads = [bytes(message.payload) for message in messages]
        if any(parse(payload) is None for payload in payloads):
            return False
        with process_batch(messages, client=self._client) as span:
            try:
                self._echo.send(b"[" + b",".join(payloads) + b"]", None)
            except EchoError as error:
                _failed(span, error)
                return False
            for message, payload in zip(messages, payloads, strict=True):
                self._measurements.processed(parse(payload))
                log.info("processed reading %s on %s in a batch", message_id(payload), message.topic)
            return True

    def _dead_letter(self, span: Span, message: mqtt.MQTTMessage, error: Exception) -> bool:
        _failed(span, error)
        if not self._dead_letters.put(message, str(error)):
            return False
        self._measurements.dead_lettered(_error_type(error))
        span.set_attribute("messaging.mqtt.dead_letter", topic_of(message))
        identifier = message_id(bytes(message.payload))
        log.warning("moved reading %s to %s: %s", identifier, topic_of(message), error)
        return True


def _failed(span: Span, error: Exception) -> None:
    span.record_exception(error)
    span.set_attribute("error.type", _error_type(error))
    span.set_status(StatusCode.ERROR, str(error))


def _error_type(error: Exception) -> str:
    return error.error_type if isinstance(error, EchoError) else type(error).__qualname__
