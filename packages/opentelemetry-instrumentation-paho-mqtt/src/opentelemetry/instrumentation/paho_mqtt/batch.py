# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""One unit of work on several messages."""

# Uses the same parts as the process span of one message.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from opentelemetry.instrumentation.paho_mqtt.conventions import PROCESS
from opentelemetry.instrumentation.paho_mqtt.failures import never_raises
from opentelemetry.instrumentation.paho_mqtt.processing import (
    Message,
    _carried_context,
    _Process,
    _topic,
)
from opentelemetry.instrumentation.paho_mqtt.telemetry import Telemetry, assignments, is_enabled
from opentelemetry.instrumentation.paho_mqtt.text import encodable
from opentelemetry.semconv._incubating.attributes.messaging_attributes import (  # pyright: ignore[reportMissingTypeStubs] (it has types; pyright overlooks py.typed)
    MESSAGING_BATCH_MESSAGE_COUNT,
    MESSAGING_DESTINATION_NAME,
)
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanKind, set_span_in_context
from paho.mqtt.client import Client


@never_raises
def _start_batch(telemetry: Telemetry, client: Client | None, messages: Sequence[Message]) -> _Process:
    """Opens the span of a batch: a child of the current span, with a link to the publish span of each message."""
    topics = {_topic(message) for message in messages}
    operation = telemetry.conventions.batch_operation(PROCESS, client, topics)
    span = telemetry.tracer.start_span(
        operation.span_name,
        kind=SpanKind.CONSUMER,
        attributes={**operation.span_attributes, MESSAGING_BATCH_MESSAGE_COUNT: len(messages)},
        links=message_links(messages, client=client),
    )
    return _Process(telemetry, span, set_span_in_context(span), operation.metric_attributes, None)


def process_batch(messages: Sequence[Message], *, client: Client | None = None) -> AbstractContextManager[Span]:
    """Runs one unit of work on several messages in one process span, with a link to the publish span of each.

    Args:
        messages: Messages as received from paho, or from a library built on it.
        client: The client that received them: the span has its connection attributes and its options.

    Returns:
        A context manager whose value is the span, a child of the current span if there is one. Exceptions are recorded
        and raised again. If paho is not instrumented, the span records nothing.
    """
    telemetry = assignments.of(client)
    if telemetry is None or not is_enabled():
        return nullcontext(INVALID_SPAN)
    return _start_batch(telemetry, client, messages) or nullcontext(INVALID_SPAN)


def message_links(messages: Sequence[Message], *, client: Client | None = None) -> list[Link]:
    """Makes the span links of a unit of work on several messages; each has the topic of its message as an attribute.

    Args:
        messages: Messages as received from paho, or from a library built on it.
        client: The client that received them; its options apply.

    Returns:
        One link for each message that carries a usable context.
    """
    telemetry = assignments.of(client)
    carried = [(_carried_context(telemetry, message)[1], message) for message in messages]
    return [
        Link(span_context, {MESSAGING_DESTINATION_NAME: encodable(_topic(message))})
        for span_context, message in carried
        if span_context is not None
    ]
