# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""Names of spans and attributes, by the OpenTelemetry `messaging conventions`_.

``messaging.system`` has no value for MQTT there; ``mqtt`` is what every MQTT implementation uses. Attributes below
``messaging.mqtt`` are this package's own, and so is ``mqtt.missing_context``, which keeps the name that users look for.

.. _messaging conventions: https://opentelemetry.io/docs/specs/semconv/messaging/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from opentelemetry.instrumentation.paho_mqtt import private
from opentelemetry.instrumentation.paho_mqtt.text import encodable
from opentelemetry.instrumentation.paho_mqtt.topics import TopicFilters
from opentelemetry.semconv._incubating.attributes.messaging_attributes import (  # pyright: ignore[reportMissingTypeStubs] (it has types; pyright overlooks py.typed)
    MESSAGING_CLIENT_ID,
    MESSAGING_DESTINATION_NAME,
    MESSAGING_DESTINATION_TEMPLATE,
    MESSAGING_MESSAGE_BODY_SIZE,
    MESSAGING_OPERATION_NAME,
    MESSAGING_OPERATION_TYPE,
    MESSAGING_SYSTEM,
    MessagingOperationTypeValues,
)
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT
from opentelemetry.util.types import AttributeValue
from paho.mqtt.client import Client

# Not from opentelemetry-semantic-conventions, where each edition is in the releases since: an older one will do.
SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"

PUBLISH = "publish"
PROCESS = "process"
_OPERATION_TYPES = {
    PUBLISH: MessagingOperationTypeValues.SEND.value,
    PROCESS: MessagingOperationTypeValues.PROCESS.value,
}

MQTT_QOS = "messaging.mqtt.qos"
MQTT_RETAIN = "messaging.mqtt.retain"
MQTT_DUP = "messaging.mqtt.dup"
MQTT_CONTEXT_SOURCE = "messaging.mqtt.context_source"
MQTT_MISSING_CONTEXT = "mqtt.missing_context"
MQTT_MISSING_CONTEXT_REASON = "mqtt.missing_context_reason"

Attributes = dict[str, AttributeValue]


@dataclass(frozen=True, eq=False)
class Conventions:
    """The conventions, and what the user decides within them."""

    templates: TopicFilters
    # Topics often hold a device's id: then only a template keeps the number of span names low.
    topics_in_span_names: bool

    def operation(self, name: str, client: Client | None, topic: str) -> Operation:
        """Describes an operation of a client on a topic, or on several if empty; ``name`` is one of those above."""
        if client is None:
            return _operation(self, name, topic, "", None, b"")
        return _operation(self, name, topic, *private.server(client), private.client_id(client))


def payload_size(payload: Any) -> int:
    """Size in bytes of a payload as paho encodes it: str as UTF-8, numbers as their decimal digits, None as nothing."""
    if isinstance(payload, (bytes, bytearray)):
        return len(payload)
    if isinstance(payload, (str, int, float)):
        text = str(payload)
        return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
    return 0


@dataclass(frozen=True)
class Operation:
    """What all messages that a client publishes to a topic, or processes from it, have in common."""

    span_name: str
    span_attributes: Mapping[str, AttributeValue]
    # Those with few values, as metrics need.
    metric_attributes: Mapping[str, AttributeValue]

    def message_attributes(self, payload: Any, qos: int, retain: bool, dup: bool = False) -> Attributes:
        """What the span of one message says."""
        attributes: Attributes = {
            **self.span_attributes,
            MESSAGING_MESSAGE_BODY_SIZE: payload_size(payload),
            MQTT_QOS: qos,
        }
        if retain:
            attributes[MQTT_RETAIN] = True
        if dup:
            attributes[MQTT_DUP] = True
        return attributes


@lru_cache(maxsize=1024)
def _operation(
    conventions: Conventions, name: str, topic: str, address: str, port: int | None, client_id: bytes
) -> Operation:
    topic = encodable(topic)
    template = conventions.templates.match(topic) if topic else None
    attributes: Attributes = {
        MESSAGING_SYSTEM: "mqtt",
        MESSAGING_OPERATION_NAME: name,
        MESSAGING_OPERATION_TYPE: _OPERATION_TYPES[name],
    }
    if address:
        attributes[SERVER_ADDRESS] = encodable(address)
        if port is not None:
            attributes[SERVER_PORT] = port
    if template is not None:
        attributes[MESSAGING_DESTINATION_TEMPLATE] = template
    metric_attributes = attributes.copy()
    if topic:
        attributes[MESSAGING_DESTINATION_NAME] = topic
    if client_id:
        attributes[MESSAGING_CLIENT_ID] = client_id.decode("utf-8", "replace")
    destination = topic if conventions.topics_in_span_names else template
    return Operation(f"{name} {destination}" if destination else name, attributes, metric_attributes)
