# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""Trace context in JSON payloads, for MQTT 3.1.1, which has no user properties.

The fields are members of the outermost object, with their W3C names, as the (discontinued) W3C note on MQTT recommends.
This changes the payload for every receiver, so it is done only if the user asks for it.
"""

from __future__ import annotations

import json
from typing import Any

from opentelemetry.instrumentation.paho_mqtt.propagation import UserProperties
from opentelemetry.instrumentation.paho_mqtt.topics import TopicFilters

FIELDS = ("traceparent", "tracestate")


class _Members(list[tuple[str, Any]]):
    """The members of a JSON object in order, including equal names."""


def _members(payload: object) -> _Members | None:
    """The members of a JSON object, or None for any other payload."""
    try:
        text = (
            payload
            if isinstance(payload, str)
            else str(payload, "utf-8")
            if isinstance(payload, (bytes, bytearray))
            else ""
        )
        # Only the outermost object matters; a payload without its braces is not parsed.
        parsed = json.loads(text, object_pairs_hook=_Members) if text.strip()[:1] == "{" else None
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, _Members) else None


class JsonEnvelope(TopicFilters):
    """Reads and writes the trace context of JSON payloads on matching topics.

    Args:
        filters: Topic filters.

    Raises:
        TypeError: A single string was given.
    """

    def read(self, payload: object) -> UserProperties:
        """See :func:`read`."""
        return read(payload)

    def write(self, payload: Any, fields: UserProperties) -> Any:
        """See :func:`write`."""
        return write(payload, fields)


def read(payload: object) -> UserProperties:
    """Reads the trace context of a payload.

    Args:
        payload: The payload as received; only a JSON object in UTF-8 carries a context.

    Returns:
        Name and value pairs like user properties, including equal names and names in another case.
    """
    return [
        (name, value) for name, value in _members(payload) or () if name.lower() in FIELDS and isinstance(value, str)
    ]


def write(payload: Any, fields: UserProperties) -> Any:
    """Writes a trace context into a payload.

    The fields are inserted before the closing brace, so that every other byte stays as it was.

    Args:
        payload: The payload to publish.
        fields: Name and value pairs; only those of W3C Trace Context are written.

    Returns:
        The payload with the fields; the same object if it is not a JSON object, or has one of the fields already.
    """
    members = _members(payload)
    added = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in fields if name in FIELDS]
    if members is None or not added or any(name in FIELDS for name, _ in members):
        return payload
    insertion = (", " if members else "") + ", ".join(added)
    if isinstance(payload, str):
        end = payload.rindex("}")
        return payload[:end] + insertion + payload[end:]
    end = payload.rindex(b"}")
    return payload[:end] + insertion.encode() + payload[end:]
