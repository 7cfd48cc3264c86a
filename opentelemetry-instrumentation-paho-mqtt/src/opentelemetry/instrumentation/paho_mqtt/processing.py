# SPDX-License-Identifier: Apache-2.0
"""The process span: around the handlers of one received message."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.context import Context, attach, detach
from opentelemetry.instrumentation.paho_mqtt.attributes import message_attributes
from opentelemetry.instrumentation.paho_mqtt.hooks import call_hook
from opentelemetry.instrumentation.paho_mqtt.propagation import (
    UserProperties,
    missing_context_reason,
    user_properties_to_context,
)
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    Span,
    SpanKind,
    Tracer,
    get_current_span,
    set_span_in_context,
    use_span,
)
from opentelemetry.util.types import AttributeValue
from paho.mqtt.client import Client, MQTTMessage

ProcessHook = Callable[[Span, MQTTMessage], None]

_OPERATION = "process"


def _topic(message: MQTTMessage) -> str:
    try:
        return message.topic
    except UnicodeDecodeError:
        return message._topic.decode("utf-8", "replace")


def _context_and_links(message: MQTTMessage) -> tuple[Context, list[Link], dict[str, AttributeValue]]:
    """Where the span belongs: below the publish span, beside it, or nowhere."""
    user_properties: UserProperties | None = getattr(message.properties, "UserProperty", None)
    context = user_properties_to_context(user_properties)
    publish_span = get_current_span(context).get_span_context()
    if not publish_span.is_valid:
        reason = missing_context_reason(user_properties)
        return context, [], {"mqtt.missing_context": True, "mqtt.missing_context_reason": reason}
    if message.retain:
        # The broker kept the message: its trace may have ended days ago.
        return set_span_in_context(INVALID_SPAN, context), [Link(publish_span)], {}
    return context, [], {}


@contextmanager
def _attached(context: Context) -> Iterator[None]:
    token = attach(context)
    try:
        yield
    finally:
        detach(token)


def wrap_handle_on_message(tracer: Tracer, process_hook: ProcessHook | None) -> Callable[..., None]:
    """Makes the wrapper for ``Client._handle_on_message``, which calls every handler of one message."""

    def handle_on_message(
        wrapped: Callable[..., None], client: Client, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if not is_instrumentation_enabled():
            return wrapped(*args, **kwargs)
        message: MQTTMessage = args[0] if args else kwargs["message"]
        topic = _topic(message)
        context, links, missing = _context_and_links(message)
        attributes = message_attributes(
            client, _OPERATION, topic, len(message.payload), message.qos, message.retain, message.dup
        )
        span = tracer.start_span(
            f"{_OPERATION} {topic}",
            context=context,
            kind=SpanKind.CONSUMER,
            attributes=attributes | missing,
            links=links,
        )
        # The message's context first, so that its baggage is there too.
        with _attached(context), use_span(span, end_on_exit=True):
            if process_hook is not None:
                call_hook(process_hook, span, message)
            try:
                return wrapped(*args, **kwargs)
            except Exception as error:
                span.set_attribute(ERROR_TYPE, type(error).__qualname__)
                raise

    return handle_on_message
