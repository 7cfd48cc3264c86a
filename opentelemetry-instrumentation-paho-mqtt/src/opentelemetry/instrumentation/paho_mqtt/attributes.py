# SPDX-License-Identifier: Apache-2.0
"""The attributes that publish and process spans share, by the OpenTelemetry messaging conventions.

``messaging.system`` has no value for MQTT there; ``mqtt`` is what every MQTT implementation uses. The ``mqtt.*``
attributes are this package's own.
"""

from __future__ import annotations

from typing import Any

from opentelemetry.semconv._incubating.attributes.messaging_attributes import (
    MESSAGING_CLIENT_ID,
    MESSAGING_DESTINATION_NAME,
    MESSAGING_MESSAGE_BODY_SIZE,
    MESSAGING_OPERATION_NAME,
    MESSAGING_OPERATION_TYPE,
    MESSAGING_SYSTEM,
)
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT
from opentelemetry.util.types import AttributeValue
from paho.mqtt.client import Client


def payload_size(payload: Any) -> int:
    """Size in bytes of a payload as paho encodes it: str as UTF-8, numbers as their decimal digits, None as nothing."""
    if isinstance(payload, (bytes, bytearray)):
        return len(payload)
    if isinstance(payload, (str, int, float)):
        return len(str(payload).encode("utf-8", "replace"))
    return 0


def message_attributes(
    client: Client, operation: str, topic: str, body_size: int, qos: int, retain: bool, dup: bool = False
) -> dict[str, AttributeValue]:
    """Attributes of one message on its way out or in; ``body_size`` in bytes."""
    attributes: dict[str, AttributeValue] = {
        MESSAGING_SYSTEM: "mqtt",
        MESSAGING_DESTINATION_NAME: topic,
        MESSAGING_OPERATION_TYPE: operation,
        MESSAGING_OPERATION_NAME: operation,
        MESSAGING_MESSAGE_BODY_SIZE: body_size,
        "mqtt.qos": qos,
    }
    if client._host:
        attributes[SERVER_ADDRESS] = client._host
        attributes[SERVER_PORT] = client._port
    if client._client_id:
        attributes[MESSAGING_CLIENT_ID] = client._client_id.decode("utf-8", "replace")
    if retain:
        attributes["mqtt.retain"] = True
    if dup:
        attributes["mqtt.dup"] = True
    return attributes
