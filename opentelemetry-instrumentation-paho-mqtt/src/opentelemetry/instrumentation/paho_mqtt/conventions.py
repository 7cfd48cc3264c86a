# SPDX-License-Identifier: Apache-2.0
"""Names of spans and attributes, by the OpenTelemetry `messaging conventions`_.

``messaging.system`` has no value for MQTT there; ``mqtt`` is what every MQTT implementation uses. The ``mqtt.*``
attributes are this package's own.

.. _messaging conventions: https://opentelemetry.io/docs/specs/semconv/messaging/
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from opentelemetry.instrumentation.paho_mqtt.text import encodable
from opentelemetry.instrumentation.paho_mqtt.topics import TopicFilters
from opentelemetry.semconv._incubating.attributes.messaging_attributes import (
    MESSAGING_CLIENT_ID,
    MESSAGING_DESTINATION_NAME,
    MESSAGING_DESTINATION_TEMPLATE,
    MESSAGING_MESSAGE_BODY_SIZE,
    MESSAGING_OPERATION_NAME,
    MESSAGING_OPERATION_TYPE,
    MESSAGING_SYSTEM,
)
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.util.types import AttributeValue
from paho.mqtt.client import Client

MQTT_QOS = "mqtt.qos"
MQTT_RETAIN = "mqtt.retain"
MQTT_DUP = "mqtt.dup"
MQTT_CONTEXT_SOURCE = "mqtt.context_source"
MQTT_MISSING_CONTEXT = "mqtt.missing_context"
MQTT_MISSING_CONTEXT_REASON = "mqtt.missing_context_reason"

Attributes = dict[str, AttributeValue]


@dataclass(frozen=True)
class Conventions:
    """One edition of the conventions, and the user's templates of topics."""

    schema_url: str
    publish: str
    process: str
    # Topics often hold a device's id: then only a template keeps the number of span names low.
    topics_in_span_names: bool
    templates: TopicFilters

    @classmethod
    def from_environment(cls, templates: Iterable[str]) -> Conventions:
        """The edition that ``OTEL_SEMCONV_STABILITY_OPT_IN`` asks for.

        Args:
            templates: MQTT topic filters; the first that matches a topic is its ``messaging.destination.template``.
        """
        choices = {choice.strip() for choice in os.environ.get("OTEL_SEMCONV_STABILITY_OPT_IN", "").split(",")}
        filters = TopicFilters(templates)
        if choices & {"messaging", "messaging/dup"}:
            return cls(Schemas.V1_44_0.value, "send", "process", False, filters)
        return cls(Schemas.V1_27_0.value, "publish", "process", True, filters)

    def span_name(self, operation: str, topic: str, template: str | None) -> str:
        """``{operation} {topic}``; in the newest conventions ``{operation} {template}``, or only the operation."""
        destination = topic if self.topics_in_span_names else template
        return f"{operation} {destination}" if destination else operation


def payload_size(payload: Any) -> int:
    """Size in bytes of a payload as paho encodes it: str as UTF-8, numbers as their decimal digits, None as nothing."""
    if isinstance(payload, (bytes, bytearray)):
        return len(payload)
    if isinstance(payload, (str, int, float)):
        text = str(payload)
        return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
    return 0


@lru_cache(maxsize=1024)
def _shared_attributes(
    address: str, port: int | None, operation: str, template: str | None
) -> Mapping[str, AttributeValue]:
    attributes: Attributes = {
        MESSAGING_SYSTEM: "mqtt",
        MESSAGING_OPERATION_NAME: operation,
        MESSAGING_OPERATION_TYPE: operation,
    }
    if address:
        attributes[SERVER_ADDRESS] = encodable(address)
        if port is not None:
            attributes[SERVER_PORT] = port
    if template is not None:
        attributes[MESSAGING_DESTINATION_TEMPLATE] = template
    return attributes


def operation_attributes(client: Client | None, operation: str, template: str | None) -> Mapping[str, AttributeValue]:
    """What spans and metrics of an operation have in common: few values, as metrics need."""
    if client is None:
        return _shared_attributes("", None, operation, template)
    port = None if client._transport == "unix" else client._port
    return _shared_attributes(client._host, port, operation, template)


def message_attributes(
    client: Client | None,
    shared: Mapping[str, AttributeValue],
    topic: str,
    body_size: int,
    qos: int,
    retain: bool,
    dup: bool = False,
) -> Attributes:
    """What the span of one message says: the ``shared`` attributes and its own; ``body_size`` in bytes."""
    attributes: Attributes = {
        **shared,
        MESSAGING_DESTINATION_NAME: topic,
        MESSAGING_MESSAGE_BODY_SIZE: body_size,
        MQTT_QOS: qos,
    }
    if client is not None and client._client_id:
        attributes[MESSAGING_CLIENT_ID] = client._client_id.decode("utf-8", "replace")
    if retain:
        attributes[MQTT_RETAIN] = True
    if dup:
        attributes[MQTT_DUP] = True
    return attributes
