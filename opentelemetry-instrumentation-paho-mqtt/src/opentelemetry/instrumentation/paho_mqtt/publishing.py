# SPDX-License-Identifier: Apache-2.0
"""The publish span: opened before the publish, closed by the broker's acknowledgement.

The open span travels inside the PUBLISH properties that paho keeps with each message until it is acknowledged. So it
needs no table of its own, is there before the first byte is sent, covers reconnects and resends, and cannot be mixed up
when a message id is used again.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any
from weakref import WeakSet

from opentelemetry.instrumentation.paho_mqtt import json_envelope
from opentelemetry.instrumentation.paho_mqtt.conventions import (
    Attributes,
    message_attributes,
    operation_attributes,
    payload_size,
)
from opentelemetry.instrumentation.paho_mqtt.failures import (
    call_hook,
    error_type,
    never_raises,
    record_exception,
    set_error,
)
from opentelemetry.instrumentation.paho_mqtt.propagation import (
    UserProperties,
    context_to_user_properties,
    has_trace_context,
    user_properties_to_context,
)
from opentelemetry.instrumentation.paho_mqtt.telemetry import Telemetry, assignments
from opentelemetry.instrumentation.paho_mqtt.text import encodable
from opentelemetry.instrumentation.utils import is_instrumentation_enabled  # pyright: ignore[reportUnknownVariableType]
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.trace import Link, Span, SpanKind, get_current_span, set_span_in_context
from paho.mqtt.client import Client, MQTTMessage, MQTTMessageInfo, MQTTv5
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

_template = Properties(PacketTypes.PUBLISH)
_PUBLISH_PROPERTIES = frozenset(
    name.replace(" ", "")
    for name, identifier in _template.names.items()
    if PacketTypes.PUBLISH in _template.properties[identifier][1]
)
_FIRST_FAILURE = 0x80

# Those with spans that may still be open, for when no acknowledgement will be seen any more.
_publishing_clients: WeakSet[Client] = WeakSet()


class _Publication:
    """One message on its way to the broker: its span and its clock."""

    def __init__(self, telemetry: Telemetry, span: Span, metric_attributes: Attributes) -> None:
        self._telemetry = telemetry
        self._metric_attributes = metric_attributes
        self._started = perf_counter()
        self.span = span

    @never_raises
    def end(self, error_type: str | None = None, description: str = "") -> None:
        """Ends the span once, whoever comes first; ``error_type`` is None for a success."""
        span: Span | None = self.__dict__.pop("span", None)
        if span is None:
            return
        seconds = perf_counter() - self._started
        if error_type is not None:
            self._metric_attributes[ERROR_TYPE] = error_type
            set_error(span, error_type, description)
        span.end()
        self._telemetry.metrics.published(seconds, self._metric_attributes)


class _PublishProperties(Properties):
    """The properties of one message: a copy of the caller's, the trace context, and the open span.

    Paho fills the same large tables into each object; here they belong to the class.
    """

    packetType = PacketTypes.PUBLISH  # noqa: N815 (paho's name)
    types = _template.types
    names = _template.names
    properties = _template.properties

    def __init__(self, caller: Properties | None, publication: _Publication) -> None:
        # Not through paho's attribute access, which searches its tables for each name.
        values = self.__dict__
        values["publication"] = publication
        if caller is not None:
            values |= {name: _copy(value) for name, value in vars(caller).items() if name in _PUBLISH_PROPERTIES}

    @property
    def user_properties(self) -> list[tuple[str, str]]:
        """The user properties, to be added to."""
        return self.__dict__.setdefault("UserProperty", [])

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy is the user's own and has no part in the span.
        return _plain, ({name: value for name, value in vars(self).items() if name in _PUBLISH_PROPERTIES},)

    def __del__(self) -> None:
        # paho let go of the message: acknowledged while not instrumented, or discarded.
        publication: _Publication | None = self.__dict__.get("publication")
        if publication is not None:
            publication.end("discarded", "the client let go of the message before the broker acknowledged it")


def _plain(values: dict[str, Any]) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)
    vars(properties).update({name: _copy(value) for name, value in values.items()})
    return properties


def _copy(value: Any) -> Any:
    """Copies the value of a property: numbers, strings and bytes stay, lists and byte arrays do not."""
    if isinstance(value, list):
        return [_copy(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return bytes(value) if isinstance(value, bytearray) else value


def _arguments(
    topic: str, payload: Any = None, qos: int = 0, retain: bool = False, properties: Properties | None = None
) -> tuple[str, Any, int, bool, Properties | None]:
    """The arguments of ``Client.publish``, by position."""
    return topic, payload, qos, retain, properties


@never_raises
def _start(
    telemetry: Telemetry, client: Client, topic: str, payload: Any, qos: int, retain: bool, caller: Properties | None
) -> tuple[Any, _PublishProperties]:
    """Opens the span; returns the payload and the properties to publish with."""
    caller_fields: UserProperties = getattr(caller, "UserProperty", ())
    enveloped = client._protocol != MQTTv5 and telemetry.json_envelope.match(topic) is not None
    if enveloped:
        caller_fields = json_envelope.read(payload)
    name = encodable(str(topic))
    template = telemetry.conventions.templates.match(name)
    operation = telemetry.conventions.publish
    shared = operation_attributes(client, operation, template)
    span = telemetry.tracer.start_span(
        telemetry.conventions.span_name(operation, name, template),
        kind=SpanKind.PRODUCER,
        attributes=shared | message_attributes(client, name, payload_size(payload), qos, retain, dup=False),
        links=_links(caller_fields),
    )
    properties = _PublishProperties(caller, _Publication(telemetry, span, shared))
    _publishing_clients.add(client)
    fields = _added_fields(span, caller_fields)
    if enveloped:
        payload = json_envelope.write(payload, fields)
    elif fields:
        properties.user_properties.extend(fields)
    if telemetry.publish_hook is not None:
        call_hook(telemetry.publish_hook, span, topic, payload, properties)
    return payload, properties


def _links(caller_fields: UserProperties) -> list[Link]:
    """A link to the context that the caller itself put into the message."""
    if not has_trace_context(caller_fields):
        return []
    return [Link(get_current_span(user_properties_to_context(caller_fields)).get_span_context())]


def _added_fields(span: Span, caller_fields: UserProperties) -> UserProperties:
    """The fields to write into the message: none if the caller wrote a trace context, and none that it wrote."""
    set_by_caller = {name for name, _ in caller_fields}
    if "traceparent" in set_by_caller or has_trace_context(caller_fields):
        return []
    fields = context_to_user_properties(set_span_in_context(span))
    return [(name, value) for name, value in fields if name not in set_by_caller]


def publish(
    wrapped: Callable[..., MQTTMessageInfo], client: Client, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> MQTTMessageInfo:
    """Wrapper for ``Client.publish``."""
    telemetry = assignments.of(client)
    if telemetry is None or not is_instrumentation_enabled():
        return wrapped(*args, **kwargs)
    try:
        topic, payload, qos, retain, caller = _arguments(*args, **kwargs)
    except TypeError:
        return wrapped(*args, **kwargs)  # paho says best what is wrong
    started = _start(telemetry, client, topic, payload, qos, retain, caller)
    if started is None:
        return wrapped(*args, **kwargs)
    payload, properties = started
    publication: _Publication = vars(properties)["publication"]
    try:
        info = wrapped(topic, payload, qos, retain, properties)
    except BaseException as error:
        record_exception(publication.span, error)
        publication.end(error_type(error), f"{type(error).__name__}: {error}")
        raise
    # By paho's return codes: without a connection QoS 0 is dropped, the others wait for one unless the queue is full.
    if qos == 0 or info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
        if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS:
            publication.end()
        else:
            publication.end(info.rc.name, "paho did not accept the message")
    return info


def _publication_of(message: MQTTMessage | None) -> _Publication | None:
    properties = message.properties if message is not None else None
    return vars(properties)["publication"] if isinstance(properties, _PublishProperties) else None


def acknowledged(wrapped: Callable[..., Any], client: Client, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Wrapper for ``Client._do_on_publish``, which paho calls once per acknowledged message, before it forgets it."""
    mid: int = args[0]
    reason_code: ReasonCode = args[1]
    publication = _publication_of(client._out_messages.get(mid))
    if publication is not None:
        if reason_code.is_failure:
            publication.end(_name(reason_code.packetType, reason_code.value), "the broker refused the message")
        else:
            publication.end()
    return wrapped(*args, **kwargs)


def received(wrapped: Callable[..., Any], client: Client, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Wrapper for ``Client._handle_pubrec``: paho goes on with a QoS 2 message that the broker refused there."""
    packet: bytes = client._in_packet["packet"]
    if client._protocol == MQTTv5 and len(packet) > 2 and packet[2] >= _FIRST_FAILURE:
        publication = _publication_of(client._out_messages.get(int.from_bytes(packet[:2])))
        if publication is not None:
            publication.end(_name(PacketTypes.PUBREC, packet[2]), "the broker refused the message")
    return wrapped(*args, **kwargs)


def _name(packet_type: int, value: int) -> str:
    """The name of a reason code (MQTT 5.0, 2.4), or its number if there is none."""
    try:
        return ReasonCode(packet_type, identifier=value).getName()
    except (AssertionError, KeyError):
        return f"0x{value:02x}"


def disconnect(wrapped: Callable[..., Any], client: Client, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Wrapper for ``Client.disconnect``: without a connection, paho reports no end of one."""
    result = wrapped(*args, **kwargs)
    if client._sock is None:
        end_open_spans(client)
    return result


def disconnected(wrapped: Callable[..., Any], client: Client, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Wrapper for ``Client._do_on_disconnect``: a connection that paho will not open again by itself ends its spans.

    Otherwise paho sends what was not acknowledged once more, and the spans cover that.
    """
    if client._state.name in ("MQTT_CS_DISCONNECTING", "MQTT_CS_DISCONNECTED") or not client._reconnect_on_failure:
        end_open_spans(client)
    return wrapped(*args, **kwargs)


@never_raises
def end_open_spans(client: Client) -> None:
    """Ends the spans of all messages that wait for an acknowledgement."""
    with client._out_message_mutex:
        messages = list(client._out_messages.values())
    for message in messages:
        publication = _publication_of(message)
        if publication is not None:
            publication.end("disconnect", "the client disconnected before the broker acknowledged the message")


def end_all_open_spans() -> None:
    """Ends the open spans of all clients: the program ends, or the instrumentation does."""
    for client in list(_publishing_clients):
        end_open_spans(client)
