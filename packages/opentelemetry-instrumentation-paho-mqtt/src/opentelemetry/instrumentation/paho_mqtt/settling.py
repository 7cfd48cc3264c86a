# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""The settle span: around the acknowledgement of a message, if the client acknowledges itself (``manual_ack``)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter, time_ns
from typing import Any

from opentelemetry.context import Context, get_current
from opentelemetry.instrumentation.paho_mqtt import endings, private
from opentelemetry.instrumentation.paho_mqtt.clients import state_of
from opentelemetry.instrumentation.paho_mqtt.conventions import ACK, MQTT_QOS, Operation
from opentelemetry.instrumentation.paho_mqtt.failures import error_type, never_raises, record_exception, set_error
from opentelemetry.instrumentation.paho_mqtt.propagation import user_properties_to_context
from opentelemetry.instrumentation.paho_mqtt.telemetry import Telemetry, assignments, is_enabled
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.trace import Link, Span, SpanKind, get_current_span, set_span_in_context
from paho.mqtt.client import Client
from paho.mqtt.enums import MQTTErrorCode


def ack(wrapped: Callable[..., Any], client: Client, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Wraps ``Client.ack``."""
    telemetry = assignments.of(client)
    settle = None
    if telemetry is not None and telemetry.settle_spans and is_enabled():
        settle = _start(telemetry, client, *args[:2], **kwargs)
    if settle is None:
        return wrapped(*args, **kwargs)
    try:
        result = wrapped(*args, **kwargs)
    except BaseException as error:
        settle.failed(error)
        raise
    settle.done(result)
    return result


class _Settle:
    """An acknowledgement in progress."""

    def __init__(self, telemetry: Telemetry, operation: Operation, span: Span) -> None:
        self._telemetry = telemetry
        self._operation = operation
        self._span = span
        self._started = perf_counter()

    @never_raises
    def failed(self, error: BaseException) -> None:
        """Ends the span with an exception that paho raised."""
        record_exception(self._span, error)
        self._note_end(error_type(error))

    @never_raises
    def done(self, result: MQTTErrorCode) -> None:
        """Ends the span with paho's return code."""
        if result == MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._note_end()
        else:
            name = MQTTErrorCode(result).name
            set_error(self._span, name, "paho did not send the acknowledgement")
            self._note_end(name)

    def _note_end(self, error: str | None = None) -> None:
        endings.note(partial(self._end, error, perf_counter() - self._started, time_ns()))
        endings.end_noted()

    @never_raises
    def _end(self, error: str | None, seconds: float, nanoseconds: int) -> None:
        self._span.end(nanoseconds)
        attributes = self._operation.metric_attributes
        if error is not None:
            attributes = {**attributes, ERROR_TYPE: error}
        self._telemetry.metrics.settled(seconds, attributes, set_span_in_context(self._span))


@never_raises
def _start(telemetry: Telemetry, client: Client, mid: int, qos: int) -> _Settle | None:
    """Opens the span: a child of the current span, else of the publish span; linked to the publish span either way."""
    if not (telemetry.has_sdk or telemetry.finds_sdk()) or not private.acknowledges_itself(client):
        return None
    topic, user_properties = state_of(client).unsettled.pop(mid, ("", ()))
    operation = telemetry.conventions.operation(ACK, client, topic)
    context: Context = user_properties_to_context(user_properties)
    carried = get_current_span(context).get_span_context()
    if get_current_span().is_recording() or not carried.is_valid:
        context = get_current()
    span = telemetry.tracer.start_span(
        operation.span_name,
        context=context,
        kind=SpanKind.CLIENT,
        attributes={**operation.span_attributes, MQTT_QOS: qos},
        links=[Link(carried)] if carried.is_valid else [],
    )
    return _Settle(telemetry, operation, span)
