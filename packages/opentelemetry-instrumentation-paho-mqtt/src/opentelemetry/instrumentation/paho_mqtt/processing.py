# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""The process span: around the handling of one received message, or of a batch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from time import perf_counter, time_ns
from types import TracebackType
from typing import Any, Protocol, cast

from opentelemetry import baggage
from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.instrumentation.paho_mqtt import endings, private
from opentelemetry.instrumentation.paho_mqtt.clients import state_of
from opentelemetry.instrumentation.paho_mqtt.conventions import (
    MQTT_CONTEXT_SOURCE,
    MQTT_MISSING_CONTEXT,
    MQTT_MISSING_CONTEXT_REASON,
    PROCESS,
    Operation,
)
from opentelemetry.instrumentation.paho_mqtt.failures import call_hook, error_type, never_raises, record_exception
from opentelemetry.instrumentation.paho_mqtt.propagation import (
    UserProperties,
    missing_context_reason,
    passed_on,
    user_properties_to_context,
)
from opentelemetry.instrumentation.paho_mqtt.telemetry import Telemetry, assignments, is_enabled
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    Span,
    SpanContext,
    SpanKind,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.util.types import AttributeValue
from paho.mqtt.client import Client, MQTTMessage

# Not a value in OpenTelemetry's context, which would be copied for it.
_current: ContextVar[_Process | None] = ContextVar("paho-mqtt-process", default=None)


class Message(Protocol):
    """A received message: paho's ``MQTTMessage``, or the message of a library built on paho."""

    @property
    def topic(self) -> object:
        """The topic, or an object whose ``str`` it is."""
        ...

    @property
    def payload(self) -> Any:
        """The payload."""
        ...

    @property
    def qos(self) -> int:
        """The quality of service: 0, 1 or 2."""
        ...

    @property
    def retain(self) -> bool:
        """Whether this is a retained message."""
        ...

    @property
    def properties(self) -> Any:
        """The MQTT 5 properties, or None."""
        ...


class _Process(AbstractContextManager[Span]):
    """Runs its body inside a started span and its context, once."""

    def __init__(
        self,
        telemetry: Telemetry,
        span: Span,
        context: Context,
        metric_attributes: Mapping[str, AttributeValue],
        message: Message | None,
        missing_context: bool = False,
    ) -> None:
        self._telemetry = telemetry
        self._context = set_span_in_context(span, context)
        self._metric_attributes = metric_attributes
        self._missing_context = missing_context
        self._started = perf_counter()
        self._process = endings.process()
        self.span = span
        self.message = message
        self.is_open = False

    def __enter__(self) -> Span:
        # Created here and not stored, because it refers to this object. In a reference cycle, the message would wait
        # for the garbage collector.
        self._token = attach(self._context)
        self._outer = _current.get()
        _current.set(self)
        self.is_open = True
        hook = self._telemetry.process_hook
        if hook is not None and self.message is not None:
            call_hook(hook, self.span, cast(MQTTMessage, self.message))
        return self.span

    def __exit__(
        self, exception_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.is_open = False
        _current.set(self._outer)
        detach(self._token)
        if self._process != endings.process():
            return
        if isinstance(error, Exception):
            self.failed(error)
        seconds = perf_counter() - self._started
        if endings.thread.held:
            endings.note(partial(self._end, seconds, time_ns()))
        else:
            self._end(seconds)

    def failed(self, error: Exception) -> None:
        """Notes an exception of the body."""
        self._metric_attributes = {**self._metric_attributes, ERROR_TYPE: error_type(error)}
        record_exception(self.span, error)

    @never_raises
    def _end(self, seconds: float, nanoseconds: int | None = None) -> None:
        self.span.end(nanoseconds)
        attributes = self._metric_attributes
        if self._missing_context:
            attributes = {**attributes, MQTT_MISSING_CONTEXT: True}
        self._telemetry.metrics.processed(seconds, attributes, self._context)


class _Attached(AbstractContextManager[None]):
    """Runs its body in a context."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def __enter__(self) -> None:
        self._token = attach(self._context)

    def __exit__(self, *_: object) -> None:
        detach(self._token)


def _topic(message: Message) -> str:
    try:
        return str(message.topic)
    except UnicodeDecodeError:
        return private.topic_bytes(cast(MQTTMessage, message)).decode("utf-8", "replace")


def _operation(telemetry: Telemetry, client: Client | None, topic: str) -> Operation:
    return telemetry.conventions.operation(PROCESS, client, topic)


def _carried_context(telemetry: Telemetry | None, message: Message) -> tuple[Context, SpanContext | None, str]:
    """The context that a message carries, its publish span or None, and the context's source or why there is none."""
    fields: UserProperties = getattr(message.properties, "UserProperty", ())
    context = user_properties_to_context(fields)
    carried = get_current_span(context).get_span_context()
    if carried.is_valid:
        return context, carried, "user_properties"
    envelope = telemetry.json_envelope if telemetry is not None else None
    if envelope is not None and envelope.match(_topic(message)) is not None:
        in_payload = envelope.read(message.payload)
        if in_payload:
            fields, context = in_payload, user_properties_to_context(in_payload)
            carried = get_current_span(context).get_span_context()
            if carried.is_valid:
                return context, carried, "json_payload"
    return context, None, missing_context_reason(fields)


def _in_surroundings(telemetry: Telemetry, carried: Context) -> Context:
    """The context that a message carries, plus all values of the current context that it lacks, except the span."""
    if telemetry.baggage_keys is not None:
        for name in baggage.get_all(carried):
            if name not in telemetry.baggage_keys:
                carried = baggage.remove_baggage(name, carried)
    current = get_current()
    if not current:
        return carried
    context = set_span_in_context(get_current_span(carried), Context({**current, **carried}))
    for name, value in baggage.get_all(current).items():
        if baggage.get_baggage(name, carried) is None:
            context = baggage.set_baggage(name, value, context)
    return context


@never_raises
def _start(telemetry: Telemetry, client: Client | None, message: Message, links_only: bool | None) -> _Process:
    return _open(telemetry, _operation(telemetry, client, _topic(message)), message, links_only)


def _open(telemetry: Telemetry, operation: Operation, message: Message, links_only: bool | None) -> _Process:
    """Opens the span of one message: linked to its publish span, and a child of that or of the current span."""
    dup: bool = getattr(message, "dup", False)
    properties = message.properties
    attributes = operation.message_attributes(message.payload, message.qos, message.retain, dup, properties)
    context, carried, found = _carried_context(telemetry, message)
    context = _in_surroundings(telemetry, context)
    # Most handlers run in an empty context, and checking for that is cheaper than looking for a span in it.
    running = get_current_span() if get_current() else INVALID_SPAN
    links: list[Link] = []
    if carried is None:
        attributes[MQTT_MISSING_CONTEXT] = True
        attributes[MQTT_MISSING_CONTEXT_REASON] = found
    else:
        attributes[MQTT_CONTEXT_SOURCE] = found
    if carried is not None:
        links.append(Link(carried))
    # An ended span is still current in threads that were started inside it, but it is no longer active.
    if links_only is None:
        links_only = running.is_recording()
    if carried is not None and message.retain:
        # The trace of a retained message may have ended days ago and is not part of the current work.
        context = set_span_in_context(INVALID_SPAN, context)
    elif carried is not None and links_only:
        context = set_span_in_context(running, context)
    elif running.get_span_context().is_valid:
        links.append(Link(running.get_span_context()))
    span = telemetry.tracer.start_span(
        operation.span_name,
        context=context,
        kind=SpanKind.CONSUMER,
        attributes=attributes,
        links=links,
    )
    span = passed_on(span, context)
    return _Process(telemetry, span, context, operation.metric_attributes, message, carried is None)


def process_span(
    message: Message, *, client: Client | None = None, links: bool | None = None
) -> AbstractContextManager[Span]:
    """Runs the handling of a message in its process span, in any thread or asyncio task.

    It is for handlers that hand messages over. Instrument with ``process_spans=False`` then, so that the hand-over has
    no span of its own.

    Args:
        message: A message as received from paho, or from a library built on it.
        client: The client that received it: the span has its connection attributes and its options.
        links: Whether the span is only linked to the publish span, and a child of the current span if there is one. If
            None, the option ``process_links`` decides.

    Returns:
        A context manager whose value is the span. Exceptions are recorded and raised again. If the process span of
        this message is already open, the value is that span. If paho is not instrumented, the span records nothing.
    """
    telemetry = assignments.of(client)
    if telemetry is None or not is_enabled():
        return nullcontext(INVALID_SPAN)
    current = _current.get()
    if current is not None and current.message is message and current.is_open:
        return nullcontext(current.span)
    links_only = telemetry.process_links if links is None else links
    return _start(telemetry, client, message, links_only) or nullcontext(INVALID_SPAN)


def handle_on_message(
    wrapped: Callable[..., None], client: Client, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Wraps ``Client._handle_on_message``, which calls every handler of one message."""
    telemetry = assignments.of(client)
    if telemetry is None or not is_enabled():
        return wrapped(*args, **kwargs)
    endings.end_noted()
    process = _received(telemetry, client, *args, **kwargs)
    if process is None:
        return wrapped(*args, **kwargs)
    with process:
        if not isinstance(process, _Process) or not getattr(client, "suppress_exceptions", False):
            return wrapped(*args, **kwargs)
        with _suppressed_exceptions(client, process.failed):
            return wrapped(*args, **kwargs)


@never_raises
def _received(telemetry: Telemetry, client: Client, message: MQTTMessage) -> AbstractContextManager[object] | None:
    """Counts a message, and opens its span if it gets one."""
    if not (telemetry.has_sdk or telemetry.finds_sdk() or telemetry.process_hook):
        return _carried_on(telemetry, message) if telemetry.process_spans else None
    if message.qos and telemetry.settle_spans and private.acknowledges_itself(client):
        user_properties = getattr(message.properties, "UserProperty", ())
        state_of(client).unsettled[message.mid] = _topic(message), user_properties
    operation = _operation(telemetry, client, _topic(message))
    process = _open(telemetry, operation, message, telemetry.process_links) if telemetry.process_spans else None
    telemetry.metrics.delivered(operation.metric_attributes)
    return process


def _carried_on(telemetry: Telemetry, message: Message) -> AbstractContextManager[object] | None:
    """Without an SDK: attaches the context that the message carries, so that the handler can propagate it."""
    if not telemetry.json_envelope and not hasattr(message.properties, "UserProperty"):
        return None
    return _Attached(_in_surroundings(telemetry, _carried_context(telemetry, message)[0]))


@contextmanager
def _suppressed_exceptions(client: Client, failed: Callable[[Exception], None]) -> Generator[None, None, None]:
    """Calls ``failed`` for each exception of a handler that paho logs instead of raising.

    They can be observed only in paho's log call, which is replaced while the handlers run.
    """
    log = private.log_method(client)
    if log is None:
        yield
        return
    network_thread = threading.get_ident()

    def watch(level: Any, message: Any, *args: Any) -> None:
        if str(message).startswith("Caught exception in") and threading.get_ident() == network_thread:
            for error in args:
                if isinstance(error, Exception):
                    failed(error)
        log(level, message, *args)

    own = vars(client).get("_easy_log")
    vars(client)["_easy_log"] = watch
    try:
        yield
    finally:
        # Do not restore it if the handler has replaced it.
        if vars(client).get("_easy_log") is watch:
            if own is None:
                del vars(client)["_easy_log"]
            else:
                vars(client)["_easy_log"] = own
