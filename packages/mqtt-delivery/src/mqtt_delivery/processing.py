"""Processes a message: calls its handler in a process span, then acknowledges, retries or dead-letters it."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

import paho.mqtt.client as mqtt
from opentelemetry.instrumentation.paho_mqtt import process_batch, process_span
from opentelemetry.trace import Span, StatusCode

from mqtt_delivery.acknowledgements import Delivery
from mqtt_delivery.bounds import Bounds
from mqtt_delivery.dead_letters import DeadLetter, DeadLetters, encodable, shortened
from mqtt_delivery.message import Message
from mqtt_delivery.metrics import ERROR_TYPE, ConsumerMetrics
from mqtt_delivery.patience import UNTRIED, Patience
from mqtt_delivery.seen import MAXIMUM_ID_CHARACTERS, Seen
from mqtt_delivery.workers import Lane

log = logging.getLogger(__name__)

Handler = Callable[[Message], object]
BatchHandler = Callable[[Sequence[Message]], object]
MessageId = Callable[[Message], "str | None"]

MadeAt = Callable[[Message], datetime]

MESSAGE_ID = "messaging.message.id"
ATTEMPT = "mqtt_delivery.attempt"
DEAD_LETTER = "messaging.mqtt.dead_letter"
# Pause between two attempts to publish a dead letter.
DEAD_LETTER_PAUSE_SECONDS = 1.0


class Processor:
    """Processes deliveries; called by several threads, but never by two for the same key.

    Args:
        client: The client that received them.
        handle: Called with each message.
        handle_batch: Called with several messages at once, if given.
        message_id: Returns the id of a message, if given.
        made_at: Returns when a message was made, if given.
        reject: Exceptions that make a message a dead letter at once.
        bounds: The limits of a message.
        finished: Called with each delivery that is processed or has become a dead letter.
        patience: Decides what happens after a failure.
        dead_letters: Publishes dead letters.
        seen: Remembers the ids of processed messages.
        metrics: The metrics to record.
    """

    def __init__(
        self,
        client: mqtt.Client,
        handle: Handler,
        handle_batch: BatchHandler | None,
        message_id: MessageId | None,
        made_at: MadeAt | None,
        reject: tuple[type[Exception], ...],
        bounds: Bounds,
        finished: Callable[[Delivery], object],
        patience: Patience,
        dead_letters: DeadLetters,
        seen: Seen,
        metrics: ConsumerMetrics,
    ) -> None:
        self._client = client
        self._handle = handle
        self._handle_batch = handle_batch
        self._message_id = message_id
        self._made_at = made_at
        self._reject = reject
        self._bounds = bounds
        self._finished = finished
        self._patience = patience
        self._dead_letters = dead_letters
        self._seen = seen
        self._metrics = metrics

    def work(self, lane: Lane, delivery: Delivery) -> float | None:
        """Makes one attempt; returns the seconds until the next one, or None if the message is finished."""
        message = self._message(delivery)
        if message.id in self._seen:
            log.info("%s was processed before", _name(message))
            self._metrics.duplicate()
            self._finished(delivery)
            return None
        started = time.monotonic()
        if delivery.attempts == 1:
            delivery.first_attempt = started
        with process_span(self._bounds.traced(delivery), client=self._client) as span:
            _describe(span, message)
            if delivery.dead_letter is None and self._patience.rests(lane):
                delivery.dead_letter = UNTRIED
            if delivery.dead_letter is not None:
                _set_error(span, delivery.dead_letter.error_type, delivery.dead_letter.reason)
                return self._move(span, delivery, message, delivery.dead_letter)
            try:
                self._handle(message)
            except BaseException as error:
                return self._failed(span, lane, delivery, message, error, time.monotonic() - started)
            self._measure_age(message)
        lane.failing_since = None
        self._processed(delivery, message)
        return None

    def work_together(self, deliveries: Sequence[Delivery]) -> bool:
        """Hands all deliveries to the batch handler; False if they must be tried one by one."""
        if self._handle_batch is None or any(delivery.dead_letter is not None for delivery in deliveries):
            return False
        messages = [self._message(delivery) for delivery in deliveries]
        if any(message.attempt > 1 or message.id in self._seen for message in messages):
            self._not_attempted(deliveries)
            return False
        with process_batch([delivery.message for delivery in deliveries], client=self._client) as span:
            try:
                self._handle_batch(messages)
            except BaseException as error:
                _record(span, error)
                log.warning("a batch of %d messages failed, they are tried one by one: %s", len(messages), _text(error))
                self._not_attempted(deliveries)
                return False
            for message in messages:
                self._measure_age(message)
        for delivery, message in zip(deliveries, messages, strict=True):
            if delivery.lane is not None:
                delivery.lane.failing_since = None
            self._processed(delivery, message)
        return True

    def _message(self, delivery: Delivery) -> Message:
        """The message as its handler sees it, at its next attempt."""
        delivery.attempts += 1
        source = delivery.message
        message = Message(
            delivery.topic,
            bytes(source.payload),
            source.properties,
            delivery.id,
            delivery.redelivered,
            delivery.attempts,
        )
        if self._message_id is not None and delivery.id is None:
            try:
                found: object = self._message_id(message)
            except Exception as error:
                log.debug("a message on %s has no id: %s", delivery.topic, error)
            else:
                # A longer text is not taken as an id, because the id is kept in memory and put on each span.
                if isinstance(found, str) and 0 < len(found) <= MAXIMUM_ID_CHARACTERS:
                    delivery.id = encodable(found)
                    message = replace(message, id=delivery.id)
        return message

    @staticmethod
    def _not_attempted(deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            delivery.attempts -= 1

    def _measure_age(self, message: Message) -> None:
        """Records the age; called within the span, so that the exemplars refer to it."""
        if self._made_at is not None:
            try:
                self._metrics.processed(self._made_at(message))
            except Exception as error:
                log.debug("%s does not say when it was made: %s", _name(message), error)

    def _processed(self, delivery: Delivery, message: Message) -> None:
        self._seen.add(message.id)
        self._finished(delivery)

    def _failed(
        self, span: Span, lane: Lane, delivery: Delivery, message: Message, error: BaseException, seconds: float
    ) -> float | None:
        error_type = _record(span, error)
        if isinstance(error, self._reject):
            decided = DeadLetter("rejected", _text(error), error_type)
        else:
            if delivery.attempts == 1:
                foreseen = hasattr(error, "error_type") or isinstance(error, OSError)
                log.warning(
                    "%s failed and is tried again: %s",
                    _name(message),
                    _text(error),
                    exc_info=None if foreseen else error,
                )
            decided = self._patience.after_failure(lane, delivery, seconds, _text(error), error_type)
        if isinstance(decided, DeadLetter):
            return self._move(span, delivery, message, decided)
        self._metrics.retried(error_type)
        return decided

    def _move(self, span: Span, delivery: Delivery, message: Message, dead_letter: DeadLetter) -> float | None:
        """Publishes a message as a dead letter, and then acknowledges it."""
        delivery.dead_letter = dead_letter
        if not self._dead_letters.put(delivery.message, delivery.topic, dead_letter.reason):
            return DEAD_LETTER_PAUSE_SECONDS
        topic = self._dead_letters.topic_of(delivery.topic)
        span.set_attribute(DEAD_LETTER, topic)
        log.warning("moved %s to %s: %s", _name(message), topic, dead_letter.reason)
        self._metrics.dead_lettered(dead_letter.error_type, dead_letter.cause)
        self._finished(delivery)
        return None


def _name(message: Message) -> str:
    if message.id is None:
        return f"a message on {_printable(message.topic)}"
    return f"message {_printable(message.id)} on {_printable(message.topic)}"


def _printable(text: str) -> str:
    """Makes a text from outside safe for the log: it cannot look like a log line of ours, or flood the log."""
    text = shortened(text)
    return text if text.isprintable() else repr(text)


def _describe(span: Span, message: Message) -> None:
    if message.id is not None:
        span.set_attribute(MESSAGE_ID, message.id)
    if message.attempt > 1:
        span.set_attribute(ATTEMPT, message.attempt)


def _text(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:
        text = ""
    return encodable(text or type(error).__qualname__)


def _record(span: Span, error: BaseException) -> str:
    """Notes an exception on the span; returns its ``error.type``."""
    error_type = str(getattr(error, "error_type", type(error).__qualname__))
    # A text that the exporter cannot encode would lose all spans of the same export.
    stacktrace = encodable("".join(traceback.format_exception(error)))
    span.record_exception(error, {"exception.message": _text(error), "exception.stacktrace": stacktrace})
    _set_error(span, error_type, _text(error))
    return error_type


def _set_error(span: Span, error_type: str, description: str) -> None:
    span.set_attribute(ERROR_TYPE, error_type)
    span.set_status(StatusCode.ERROR, encodable(description))
