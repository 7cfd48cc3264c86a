# SPDX-License-Identifier: Apache-2.0
"""The publish span: opened before the publish, closed by the broker's acknowledgement.

The span travels inside the PUBLISH properties that paho keeps with each message until it is acknowledged. So it needs
no table of its own, is there before the first byte is sent, covers reconnects and resends, and cannot be mixed up when
a message id is used again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from opentelemetry.instrumentation.paho_mqtt.attributes import message_attributes, payload_size
from opentelemetry.instrumentation.paho_mqtt.hooks import call_hook
from opentelemetry.instrumentation.paho_mqtt.propagation import (
    UserProperties,
    context_to_user_properties,
    has_trace_context,
    user_properties_to_context,
)
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.propagate import get_global_textmap
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer, get_current_span, set_span_in_context
from paho.mqtt.client import Client, MQTTErrorCode, MQTTMessageInfo, MQTTv5
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

PublishHook = Callable[[Span, str, Any, Properties], None]

_OPERATION = "publish"


class _PublishProperties(Properties):
    """A message's own PUBLISH properties: a copy of the caller's, the trace context, and the open span."""

    span: Span | None

    def __init__(self, caller: Properties | None, span: Span) -> None:
        super().__init__(PacketTypes.PUBLISH)
        if caller is not None:
            self.__dict__.update(copy.deepcopy(vars(caller)))
        self.__dict__["span"] = span

    def add_user_properties(self, user_properties: UserProperties) -> None:
        # Properties appends on assignment and has no attribute before the first one, so this keeps the caller's.
        if user_properties:
            self.UserProperty = list(user_properties)

    def end_span(self, error_type: str | None = None, description: str | None = None) -> None:
        """Ends the span once, whoever comes first."""
        span: Span | None = self.__dict__.pop("span", None)
        if span is None:
            return
        if error_type is not None:
            _set_error(span, error_type, description)
        span.end()

    def __del__(self) -> None:
        # paho let go of the message without an acknowledgement: the client itself is gone.
        self.end_span("abandoned", "the client was discarded before the broker acknowledged the message")


def _set_error(span: Span, error_type: str, description: str | None) -> None:
    span.set_attribute(ERROR_TYPE, error_type)
    span.set_status(Status(StatusCode.ERROR, description))


def _caller_context(properties: Properties | None) -> UserProperties | None:
    """The caller's user properties, if they hold a field of the propagator: what the caller set is kept."""
    user_properties: UserProperties | None = getattr(properties, "UserProperty", None)
    fields = get_global_textmap().fields
    return user_properties if any(name in fields for name, _ in user_properties or []) else None


def wrap_publish(tracer: Tracer, publish_hook: PublishHook | None) -> Callable[..., MQTTMessageInfo]:
    """Makes the wrapper for ``Client.publish``."""

    def publish(
        wrapped: Callable[..., MQTTMessageInfo], client: Client, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> MQTTMessageInfo:
        if not is_instrumentation_enabled():
            return wrapped(*args, **kwargs)

        def traced(
            topic: str,
            payload: Any = None,
            qos: int = 0,
            retain: bool = False,
            properties: Properties | None = None,
        ) -> MQTTMessageInfo:
            caller_context = _caller_context(properties)
            span = tracer.start_span(
                f"{_OPERATION} {topic}",
                kind=SpanKind.PRODUCER,
                attributes=message_attributes(client, _OPERATION, topic, payload_size(payload), qos, retain),
                links=_links(caller_context),
            )
            own = _PublishProperties(properties, span)
            if caller_context is None:
                own.add_user_properties(context_to_user_properties(set_span_in_context(span)))
            if publish_hook is not None:
                call_hook(publish_hook, span, topic, payload, own)
            try:
                info = wrapped(topic, payload, qos, retain, own)
            except Exception as error:
                span.record_exception(error)
                own.end_span(type(error).__qualname__, str(error))
                raise
            if qos == 0 or info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
                own.end_span(*_refusal(info.rc))
            return info

        return traced(*args, **kwargs)

    return publish


def _links(caller_context: UserProperties | None) -> list[Link]:
    if not has_trace_context(caller_context):
        return []
    return [Link(get_current_span(user_properties_to_context(caller_context)).get_span_context())]


def _refusal(rc: MQTTErrorCode) -> tuple[str | None, str | None]:
    return (None, None) if rc == MQTTErrorCode.MQTT_ERR_SUCCESS else (rc.name, "paho did not accept the message")


def received(wrapped: Callable[..., Any], client: Client, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Wrapper for ``Client._handle_pubrec``: paho itself goes on with a QoS 2 message that the broker refuses there."""
    packet: bytearray = client._in_packet["packet"]
    if client._protocol == MQTTv5 and len(packet) > 2 and packet[2] >= 0x80:
        message = client._out_messages.get(int.from_bytes(packet[:2]))
        properties = message.properties if message is not None else None
        if isinstance(properties, _PublishProperties):
            properties.end_span(
                str(ReasonCode(PacketTypes.PUBREC, identifier=packet[2])), "the broker refused the message"
            )
    return wrapped(*args, **kwargs)


def acknowledged(wrapped: Callable[..., Any], client: Client, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Wrapper for ``Client._do_on_publish``, which paho calls once per acknowledged message, before it forgets it."""
    mid: int = args[0]
    reason_code: ReasonCode = args[1]
    message = client._out_messages.get(mid)
    properties = message.properties if message is not None else None
    if isinstance(properties, _PublishProperties):
        if reason_code.is_failure:
            properties.end_span(str(reason_code), "the broker refused the message")
        else:
            properties.end_span()
    return wrapped(*args, **kwargs)
