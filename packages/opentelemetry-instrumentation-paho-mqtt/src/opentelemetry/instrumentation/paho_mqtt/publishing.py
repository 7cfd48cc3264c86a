# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""The publish span: opened before the publish, closed by the broker's acknowledgement.

The open span is stored in the PUBLISH properties that paho keeps with each message until it is acknowledged. So it
needs no table, exists before the first byte is sent, covers reconnects and resends, and cannot be mixed up when a
message id is used again.
"""

from __future__ import annotations

import atexit
import logging
from collections.abc import Callable, Mapping
from copy import copy
from functools import partial
from time import perf_counter, time_ns
from typing import Any, cast

from opentelemetry.context import get_current
from opentelemetry.instrumentation.paho_mqtt import endings, private
from opentelemetry.instrumentation.paho_mqtt.clients import ClientTable
from opentelemetry.instrumentation.paho_mqtt.conventions import PUBLISH
from opentelemetry.instrumentation.paho_mqtt.failures import (
    call_hook,
    error_type,
    never_raises,
    record_exception,
    set_error,
)
from opentelemetry.instrumentation.paho_mqtt.propagation import (
    UserProperties,
    added_fields,
    context_to_user_properties,
    has_trace_context,
    passed_on,
    user_properties_to_context,
)
from opentelemetry.instrumentation.paho_mqtt.telemetry import Telemetry, assignments, is_enabled
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.trace import Link, Span, SpanKind, get_current_span, set_span_in_context
from opentelemetry.util.types import AttributeValue
from paho.mqtt.client import Client, MQTTMessage, MQTTMessageInfo, MQTTv5
from paho.mqtt.enums import MessageState, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties, VariableByteIntegers, writeUTF  # pyright: ignore[reportUnknownVariableType] (no types)
from paho.mqtt.reasoncodes import ReasonCode

_logger = logging.getLogger(__name__)

_template = Properties(PacketTypes.PUBLISH)
_PUBLISH_PROPERTIES = frozenset(
    name.replace(" ", "")
    for name, identifier in _template.names.items()
    if PacketTypes.PUBLISH in _template.properties[identifier][1]
)
_PRIVATE = frozenset({"packetType", "types", "names", "properties"})
_FEW = frozenset({"UserProperty", "span", "telemetry", "metric_attributes", "process", "qos", "started"})
_FIRST_FAILURE = 0x80
_DISCARDED = "the client let go of the message before the broker acknowledged it"
_DISCONNECTED = "the client disconnected before the broker acknowledged the message"
_NOT_SENT = (MQTTErrorCode.MQTT_ERR_NO_CONN, MQTTErrorCode.MQTT_ERR_QUEUE_SIZE)
# Messages that paho has not sent on this connection. Those sent on an earlier one are marked as duplicates.
_WAITING = (MessageState.MQTT_MS_INVALID, MessageState.MQTT_MS_PUBLISH, MessageState.MQTT_MS_QUEUED)

# Clients that may have open spans, which must end when no acknowledgement can come any more.
_publishing_clients: ClientTable[None] = ClientTable()


class _PublishProperties(Properties):
    """The properties of one message, with its open span: a copy of the caller's properties, and the trace context.

    paho stores the same large tables in each object; here they belong to the class.
    """

    span: Span

    packetType = PacketTypes.PUBLISH  # noqa: N815 (paho's name)
    types = _template.types
    names = _template.names
    properties = _template.properties

    def __init__(
        self,
        caller: Properties | None,
        telemetry: Telemetry,
        span: Span,
        metric_attributes: Mapping[str, AttributeValue],
        qos: int,
    ) -> None:
        # Bypasses paho's attribute access, which searches its tables for each name.
        values = self.__dict__
        values["telemetry"] = telemetry
        values["span"] = span
        values["metric_attributes"] = metric_attributes
        values["qos"] = qos
        values["process"] = endings.process()
        values["started"] = perf_counter()
        if caller is not None:
            values |= {name: _copy(value) for name, value in vars(caller).items() if name in _PUBLISH_PROPERTIES}

    def end(
        self, error_type: str | None = None, description: str = "", is_counted: bool = True, is_sent: bool = True
    ) -> None:
        """Notes the end of the span; only the first call has an effect.

        Args:
            error_type: ``error.type``; None for a success.
            description: What went wrong, in words.
            is_counted: Whether the metrics record this end.
            is_sent: Whether the message was sent to the broker.
        """
        self._end(endings.note, error_type, description, is_counted, is_sent)

    def _end(
        self,
        note: Callable[[Callable[[], object]], None],
        error_type: str | None,
        description: str,
        is_counted: bool,
        is_sent: bool,
    ) -> None:
        values = self.__dict__
        span: Span | None = values.pop("span", None)
        if span is not None and values["process"] == endings.process():
            ended = perf_counter(), time_ns()
            # A copy, because the dictionary does not survive a finalized object; with Python 3.13, nor do its contents.
            kept = {name: values[name] for name in ("telemetry", "metric_attributes", "started")}
            note(partial(_end, span, kept, ended, error_type, description, is_counted, is_sent))

    @property
    def user_properties(self) -> list[tuple[str, str]]:
        """The user properties; callers may add to the list."""
        return self.__dict__.setdefault("UserProperty", [])

    def pack(self) -> bytes:
        """The bytes of the properties (MQTT 5.0, 2.2.2): the same as paho's, without its search for other ones."""
        values = vars(self)
        if values.keys() <= _FEW:
            return _sized(_pack(values.get("UserProperty", [])))
        return super().pack()  # pyright: ignore[reportUnknownVariableType] (paho has no types here)

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy belongs to the user and has no span.
        return _plain, ({name: value for name, value in vars(self).items() if name in _PUBLISH_PROPERTIES},)

    def __del__(self) -> None:
        # paho dropped the message: it was acknowledged while paho was not instrumented, or discarded. It is unknown
        # whether it was sent.
        self._end(endings.note_from_finalizer, "discarded", _DISCARDED, is_counted=True, is_sent=False)


class _OthersProperties(_PublishProperties):
    """The properties of one message if the caller's are not exactly paho's: their packed bytes, and the context."""

    def __init__(self, caller: Any, *others: Any) -> None:
        super().__init__(None, *others)
        self.__dict__["caller"] = caller

    def pack(self) -> bytes:
        """The packed bytes of the caller's properties, with the user properties of this object added."""
        return with_user_properties(self.__dict__.get("UserProperty", []), self.__dict__["caller"].pack())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["caller"], name)

    def __reduce__(self) -> tuple[Any, ...]:
        return copy, (self.__dict__["caller"],)


@never_raises
def _end(
    span: Span,
    values: Mapping[str, Any],
    ended: tuple[float, int],
    error_type: str | None,
    description: str,
    is_counted: bool,
    is_sent: bool,
) -> None:
    """Ends a span at a noted time; ``values`` come from its properties object."""
    seconds, nanoseconds = ended
    metric_attributes: Mapping[str, AttributeValue] = values["metric_attributes"]
    if error_type is not None:
        metric_attributes = {**metric_attributes, ERROR_TYPE: error_type}
        set_error(span, error_type, description)
    span.end(nanoseconds)
    telemetry: Telemetry = values["telemetry"]
    if is_counted and telemetry.metrics.listens():
        seconds -= values["started"]
        telemetry.metrics.published(seconds, metric_attributes, set_span_in_context(span), is_sent)


def _are_pahos(caller: Properties) -> bool:
    """Whether properties are exactly paho's for a PUBLISH, so that a copy of their values packs to the same bytes."""
    return (
        type(caller) is Properties
        and vars(caller).get("packetType") == PacketTypes.PUBLISH
        and vars(caller).keys() - _PRIVATE <= _PUBLISH_PROPERTIES
        and isinstance(vars(caller).get("UserProperty", []), list)
    )


def _pack(user_properties: UserProperties) -> bytes:
    return b"".join([b"\x26" + writeUTF(pair[0]) + writeUTF(pair[1]) for pair in user_properties])


def _sized(packed: bytes) -> bytes:
    return VariableByteIntegers.encode(len(packed)) + packed  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] (paho has no types here)


def with_user_properties(user_properties: UserProperties, packed: bytes) -> bytes:
    """Adds user properties to packed properties; returns bytes that are not valid properties unchanged."""
    try:
        length, start = cast(tuple[int, int], VariableByteIntegers.decode(packed))  # pyright: ignore[reportUnknownMemberType] (paho has no types here)
        if user_properties and start + length == len(packed):
            return _sized(packed[start:] + _pack(user_properties))
    except Exception:
        _logger.exception("a message goes out without its context")
    return packed


def _plain(values: dict[str, Any]) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)
    vars(properties).update({name: _copy(value) for name, value in values.items()})
    return properties


def _copy(value: Any) -> Any:
    """Copies the value of a property if it is mutable: a list or a byte array."""
    if isinstance(value, list):
        return [_copy(item) for item in value]  # pyright: ignore[reportUnknownVariableType] (a list of anything)
    return bytes(value) if isinstance(value, bytearray) else value


def _arguments(
    topic: Any, payload: Any = None, qos: int = 0, retain: bool = False, properties: Properties | None = None
) -> tuple[Any, Any, int, bool, Properties | None]:
    """The arguments of ``Client.publish``, however they are passed."""
    return topic, payload, qos, retain, properties


@never_raises
def _start(
    telemetry: Telemetry, client: Client, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any], _PublishProperties] | None:
    """Opens the span; returns the arguments to publish with, passed as the caller did, and the properties in them."""
    try:
        topic, payload, qos, retain, caller = _arguments(*args, **kwargs)
    except TypeError:
        return None  # paho will raise an error for them
    caller_fields = user_properties_of(caller)
    envelope = telemetry.json_envelope
    if envelope is not None and (private.protocol(client) in (MQTTv5, None) or envelope.match(topic) is None):
        envelope = None
    if envelope is not None:
        caller_fields = envelope.read(payload)
    operation = telemetry.conventions.operation(PUBLISH, client, str(topic))
    span = telemetry.tracer.start_span(
        operation.span_name,
        kind=SpanKind.PRODUCER,
        attributes=operation.message_attributes(payload, qos, retain, properties=caller),
        links=_links(caller_fields),
    )
    span = passed_on(span)
    kind = _PublishProperties if caller is None or _are_pahos(caller) else _OthersProperties
    own = kind(caller, telemetry, span, operation.metric_attributes, qos)
    if client not in _publishing_clients:
        _publishing_clients[client] = None
    fields = added_fields(context_to_user_properties(set_span_in_context(span)), caller_fields)
    if envelope is not None:
        args, kwargs = _replaced(args, kwargs, 1, "payload", envelope.write(payload, fields))
    elif fields:
        own.user_properties.extend(fields)
    if telemetry.publish_hook is not None:
        call_hook(telemetry.publish_hook, span, topic, payload, own)
    return *_replaced(args, kwargs, 4, "properties", own), own


def user_properties_of(caller: Properties | None) -> UserProperties:
    """The caller's user properties; empty if they are not pairs of strings."""
    fields: Any = getattr(caller, "UserProperty", ())
    try:
        return fields if all(isinstance(name, str) and isinstance(value, str) for name, value in fields) else ()
    except (TypeError, ValueError):
        return ()


def _replaced(
    args: tuple[Any, ...], kwargs: dict[str, Any], position: int, name: str, value: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, with one value replaced."""
    if len(args) > position:
        return (*args[:position], value, *args[position + 1 :]), kwargs
    return args, {**kwargs, name: value}


def _links(caller_fields: UserProperties) -> list[Link]:
    """A link to the context that the caller put into the message."""
    if not caller_fields or not has_trace_context(caller_fields):
        return []
    return [Link(get_current_span(user_properties_to_context(caller_fields)).get_span_context())]


@never_raises
def _has_use(telemetry: Telemetry) -> bool:
    """Whether there is anything to do. Without an SDK: only to propagate the current context, or to call a hook."""
    if telemetry.has_sdk or telemetry.finds_sdk():
        if not telemetry.ends_at_exit:
            telemetry.ends_at_exit = True
            _end_all_at_exit()
        return True
    return bool(get_current()) or telemetry.publish_hook is not None


def publish(wrapped: Callable[..., Any], client: Client, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Wraps ``Client.publish``."""
    telemetry = assignments.of(client)
    if telemetry is None or not is_enabled() or not _has_use(telemetry):
        return wrapped(*args, **kwargs)
    started = _start(telemetry, client, args, kwargs)
    if started is None:
        return wrapped(*args, **kwargs)
    args, kwargs, own = started
    endings.thread.held += 1
    try:
        info = wrapped(*args, **kwargs)
    except BaseException as error:
        _failed(own, error)
        raise
    else:
        _handed_over(own, info)
        if assignments.of(client) is not telemetry:
            # Another thread has uninstrumented the client meanwhile, and may have missed this message.
            own.end(is_counted=False)
        return info
    finally:
        endings.thread.held -= 1
        endings.end_noted()


@never_raises
def _failed(own: _PublishProperties, error: BaseException) -> None:
    """Ends the span with an exception that paho raised."""
    if "span" in vars(own):
        record_exception(own.span, error)
        own.end(error_type(error), f"{type(error).__name__}: {error}", is_sent=False)


@never_raises
def _handed_over(own: _PublishProperties, info: Any) -> None:
    """Ends the span if no acknowledgement will do so.

    Decided by paho's return codes: without a connection, paho drops QoS 0, and queues the rest if there is room.
    """
    qos: int = vars(own)["qos"]
    result = getattr(info, "rc", MQTTErrorCode.MQTT_ERR_SUCCESS)
    if (qos == 0 and result != MQTTErrorCode.MQTT_ERR_SUCCESS) or result == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
        own.end(MQTTErrorCode(result).name, "paho did not accept the message", is_sent=result not in _NOT_SENT)
    elif qos == 0 or not private.sees_acknowledgements():
        own.end()


def _properties_of(message: MQTTMessage | None) -> _PublishProperties | None:
    properties = message.properties if message is not None else None
    return properties if isinstance(properties, _PublishProperties) else None


def handle_acknowledgement(
    wrapped: Callable[..., Any], client: Client, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Wraps ``Client._handle_pubackcomp``, which paho calls for each PUBACK and PUBCOMP."""
    command = args[0] if args else kwargs.get("cmd")
    _acknowledged(client, PacketTypes.PUBACK if command == "PUBACK" else PacketTypes.PUBCOMP)
    return inside_paho(wrapped, client, args, kwargs)


def handle_pubrec(wrapped: Callable[..., Any], client: Client, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Wraps ``Client._handle_pubrec``: paho continues with a QoS 2 message even if the PUBREC refuses it."""
    _acknowledged(client, PacketTypes.PUBREC)
    return inside_paho(wrapped, client, args, kwargs)


def inside_paho(wrapped: Callable[..., Any], client: Client, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Wraps methods in which paho calls back while it holds locks: spans end after the locks are released."""
    endings.thread.held += 1
    try:
        return wrapped(*args, **kwargs)
    finally:
        endings.thread.held -= 1
        endings.end_noted()


def loop_misc(wrapped: Callable[..., Any], client: Client, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Wraps ``Client.loop_misc``, which each pass of a loop calls: it ends the spans that finalizers have noted."""
    if is_enabled():
        endings.end_noted()
    return wrapped(*args, **kwargs)


def wait_for_publish(
    wrapped: Callable[..., Any], info: MQTTMessageInfo, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Wraps ``MQTTMessageInfo.wait_for_publish``: the span has ended when it returns, since callers may then flush."""
    try:
        return wrapped(*args, **kwargs)
    finally:
        endings.end_noted_by_all()


@never_raises
def _acknowledged(client: Client, packet_type: int) -> None:
    """Ends the span of the message that the received packet acknowledges (MQTT 5.0, 3.4.2, 3.5.2 and 3.7.2)."""
    packet = private.packet(client)
    reason_code = packet[2] if len(packet) > 2 else 0
    refused = reason_code >= _FIRST_FAILURE
    if packet_type == PacketTypes.PUBREC and not refused:
        return
    own = _properties_of(private.waiting(client, int.from_bytes(packet[:2], "big")))
    if own is None:
        return
    if not refused:
        own.end()
    elif reason := _reason(packet_type, reason_code):
        own.end(reason, "the broker refused the message")


def _reason(packet_type: int, reason_code: int) -> str | None:
    """The name of a reason code (MQTT 5.0, 2.4); None for an unknown code, which paho treats as a malformed packet."""
    try:
        return ReasonCode(packet_type, identifier=reason_code).getName()
    except (AssertionError, KeyError):
        return None


def disconnect(wrapped: Callable[..., Any], client: Client, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Wraps ``Client.disconnect``: without a connection, paho does not report a disconnect."""
    result = wrapped(*args, **kwargs)
    if is_enabled():
        _disconnected(client)
        endings.end_noted()
    return result


@never_raises
def _disconnected(client: Client) -> None:
    if client.socket() is None:
        _end_waiting(client, "disconnect", _DISCONNECTED)


def do_on_disconnect(wrapped: Callable[..., Any], client: Client, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Wraps ``Client._do_on_disconnect``: ends the open spans if paho will not reconnect.

    Otherwise paho sends unacknowledged messages again, and their spans stay open.
    """
    if not private.will_reconnect(client):
        _end_waiting(client, "disconnect", _DISCONNECTED)
    try:
        return wrapped(*args, **kwargs)
    finally:
        endings.end_noted()


@never_raises
def _end_waiting(
    client: Client, error_type: str | None, description: str = "", telemetry: Telemetry | None = None
) -> None:
    """Notes the end of the spans of all unacknowledged messages, or only of those with this telemetry."""
    for message in private.all_waiting(client):
        own = _properties_of(message)
        if own is not None and telemetry in (None, vars(own)["telemetry"]):
            is_sent = message.dup or message.state not in _WAITING
            own.end(error_type, description, is_counted=error_type is not None, is_sent=is_sent)


def release(telemetry: Telemetry, client: Client | None = None) -> None:
    """Ends the open spans with this telemetry, of one client or of all: their acknowledgements will not be observed."""
    for one in [client] if client is not None else _publishing_clients.clients():
        _end_waiting(one, None, telemetry=telemetry)
    endings.end_noted()


def _end_all() -> None:
    """Ends the open spans of all clients when the program ends."""
    for client in _publishing_clients.clients():
        _end_waiting(client, "disconnect", "the program ended before the broker acknowledged the message")
    endings.end_noted_by_all()


def _end_all_at_exit() -> None:
    """Makes open spans end at program exit, before the providers that exist by now shut down."""
    atexit.unregister(_end_all)
    atexit.register(_end_all)
