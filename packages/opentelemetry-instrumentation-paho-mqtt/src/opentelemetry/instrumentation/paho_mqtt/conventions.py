# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""Names of spans and attributes, as in the OpenTelemetry `messaging conventions`_.

The conventions have no value of ``messaging.system`` for MQTT; every MQTT implementation uses ``mqtt``. Attributes
below ``messaging.mqtt`` are this package's own. So is ``mqtt.missing_context``, whose name users already look for.

.. _messaging conventions: https://opentelemetry.io/docs/specs/semconv/messaging/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from opentelemetry.instrumentation.paho_mqtt.clients import NO_SUBSCRIPTIONS, UNKNOWN, Connection, state_of
from opentelemetry.instrumentation.paho_mqtt.text import encodable
from opentelemetry.instrumentation.paho_mqtt.topics import Subscriptions, TopicFilters
from opentelemetry.semconv._incubating.attributes.messaging_attributes import (  # pyright: ignore[reportMissingTypeStubs] (it has types; pyright overlooks py.typed)
    MESSAGING_CONSUMER_GROUP_NAME,
    MESSAGING_DESTINATION_NAME,
    MESSAGING_DESTINATION_TEMPLATE,
    MESSAGING_MESSAGE_BODY_SIZE,
    MESSAGING_MESSAGE_CONVERSATION_ID,
    MESSAGING_OPERATION_NAME,
    MESSAGING_OPERATION_TYPE,
    MESSAGING_SYSTEM,
    MessagingOperationTypeValues,
)
from opentelemetry.util.types import AttributeValue
from paho.mqtt.client import Client

# Not imported from opentelemetry-semantic-conventions, so that older releases of it work.
SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"

MQTT = "mqtt"

PUBLISH = "publish"
PROCESS = "process"
ACK = "ack"
_OPERATION_TYPES = {
    PUBLISH: MessagingOperationTypeValues.SEND.value,
    PROCESS: MessagingOperationTypeValues.PROCESS.value,
    ACK: MessagingOperationTypeValues.SETTLE.value,
}

MQTT_QOS = "messaging.mqtt.qos"
MQTT_RETAIN = "messaging.mqtt.retain"
MQTT_DUP = "messaging.mqtt.dup"
MQTT_CONTEXT_SOURCE = "messaging.mqtt.context_source"
MQTT_MISSING_CONTEXT = "mqtt.missing_context"
MQTT_MISSING_CONTEXT_REASON = "mqtt.missing_context_reason"

Attributes = dict[str, AttributeValue]
# Longer topics are not cached, because they could fill the memory.
REMEMBERED_TOPIC_LENGTH = 256


@dataclass(frozen=True, eq=False)
class Conventions:
    """The conventions, with the user's options."""

    templates: TopicFilters
    # Topics often contain a device id, so by default only templates keep the number of span names low.
    topics_in_span_names: bool

    def operation(self, name: str, client: Client | None, topic: str) -> Operation:
        """Describes an operation of a client on a topic (empty: on none); ``name`` is one of the names above."""
        describe = _remembered_operation if len(topic) <= REMEMBERED_TOPIC_LENGTH else _operation
        if client is None:
            return describe(self, name, topic, UNKNOWN, NO_SUBSCRIPTIONS)
        state = state_of(client)
        subscriptions = NO_SUBSCRIPTIONS if name == PUBLISH else state.subscriptions
        return describe(self, name, topic, state.connection(client), subscriptions)

    def batch_operation(self, name: str, client: Client | None, topics: set[str]) -> Operation:
        """Describes an operation on several topics at once, by what they have in common."""
        first, *others = [self.operation(name, client, topic) for topic in topics or {""}]
        for other in others:
            first = first.common_with(other, name)
        return first


def connection_attributes(client: Client) -> Attributes:
    """The attributes of the metrics of a client's connection."""
    return {MESSAGING_SYSTEM: MQTT, **state_of(client).connection(client).server}


def payload_size(payload: Any) -> int:
    """Size in bytes of a payload as paho encodes it: str as UTF-8, numbers as decimal digits, None as empty."""
    if isinstance(payload, (bytes, bytearray)):
        return len(payload)
    if isinstance(payload, (str, int, float)):
        text = str(payload)
        return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
    return 0


def conversation_id(correlation_data: bytes) -> str:
    """The bytes of Correlation Data (MQTT 5.0, 3.3.2.3.6) as text if they are printable UTF-8, else as hex."""
    try:
        text = correlation_data.decode("utf-8")
    except UnicodeDecodeError:
        return correlation_data.hex()
    return text if text.isprintable() else correlation_data.hex()


@dataclass(frozen=True)
class Operation:
    """What all messages have in common that a client publishes to a topic, or processes from it."""

    span_name: str
    span_attributes: Mapping[str, AttributeValue]
    # Only attributes with few values, because metrics need that.
    metric_attributes: Mapping[str, AttributeValue]

    def message_attributes(
        self, payload: Any, qos: int, retain: bool, dup: bool = False, properties: Any = None
    ) -> Attributes:
        """The attributes of the span of one message."""
        attributes: Attributes = {
            **self.span_attributes,
            MESSAGING_MESSAGE_BODY_SIZE: payload_size(payload),
            MQTT_QOS: qos,
        }
        if retain:
            attributes[MQTT_RETAIN] = True
        if dup:
            attributes[MQTT_DUP] = True
        correlation_data = getattr(properties, "CorrelationData", None)
        if correlation_data:
            attributes[MESSAGING_MESSAGE_CONVERSATION_ID] = conversation_id(correlation_data)
        return attributes

    def common_with(self, other: Operation, name: str) -> Operation:
        """What both operations have in common; ``name`` is the span name if theirs differ."""
        return Operation(
            self.span_name if self.span_name == other.span_name else name,
            _common(self.span_attributes, other.span_attributes),
            _common(self.metric_attributes, other.metric_attributes),
        )


def _common(some: Mapping[str, AttributeValue], others: Mapping[str, AttributeValue]) -> Attributes:
    return {name: value for name, value in some.items() if others.get(name) == value}


def _operation(
    conventions: Conventions, name: str, topic: str, connection: Connection, subscriptions: Subscriptions
) -> Operation:
    topic = encodable(topic)
    template = conventions.templates.match(topic) if topic else None
    subscription = subscriptions.match(topic)
    attributes: Attributes = {MESSAGING_SYSTEM: MQTT, MESSAGING_OPERATION_NAME: name}
    if subscription is not None:
        template = template or encodable(subscription.topic_filter)
        if subscription.group is not None:
            attributes[MESSAGING_CONSUMER_GROUP_NAME] = encodable(subscription.group)
    if template is not None:
        attributes[MESSAGING_DESTINATION_TEMPLATE] = template
    metric_attributes = attributes | connection.server
    attributes |= {MESSAGING_OPERATION_TYPE: _OPERATION_TYPES[name], **connection.attributes}
    if topic:
        attributes[MESSAGING_DESTINATION_NAME] = topic
    destination = topic if conventions.topics_in_span_names else template
    return Operation(f"{name} {destination}" if destination else name, attributes, metric_attributes)


_remembered_operation = lru_cache(maxsize=1024)(_operation)
