# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""Connecting: the will message carries the context in which the program called ``connect``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opentelemetry.instrumentation.paho_mqtt import private
from opentelemetry.instrumentation.paho_mqtt.clients import state_of
from opentelemetry.instrumentation.paho_mqtt.conventions import connection_attributes
from opentelemetry.instrumentation.paho_mqtt.failures import never_raises
from opentelemetry.instrumentation.paho_mqtt.propagation import (
    UserProperties,
    added_fields,
    context_to_user_properties,
)
from opentelemetry.instrumentation.paho_mqtt.publishing import user_properties_of, with_user_properties
from opentelemetry.instrumentation.paho_mqtt.telemetry import Telemetry, assignments, is_enabled
from paho.mqtt.client import Client


def connect_async(wrapped: Callable[..., Any], client: Client, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Wraps ``Client.connect_async``, which ``connect`` calls too."""
    _asked_to_connect(client)
    return wrapped(*args, **kwargs)


@never_raises
def _asked_to_connect(client: Client) -> None:
    if assignments.of(client) is not None and is_enabled():
        state_of(client).connect_fields = context_to_user_properties()


def send_connect(wrapped: Callable[..., Any], client: Client, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Wraps ``Client._send_connect``, which paho calls for each connection, including reconnects."""
    telemetry = assignments.of(client)
    if telemetry is None or not is_enabled():
        return wrapped(*args, **kwargs)
    _count(telemetry, client)
    properties = _will_properties(client)
    if properties is None:
        return wrapped(*args, **kwargs)
    with private.replaced_will_properties(client, properties):
        return wrapped(*args, **kwargs)


@never_raises
def _count(telemetry: Telemetry, client: Client) -> None:
    state = state_of(client)
    if state.connected_before:
        telemetry.metrics.reconnected(connection_attributes(client))
    state.connected_before = True


class _WillProperties:
    """The properties of a will with the context added; paho only packs them."""

    def __init__(self, given: Any, added: UserProperties) -> None:
        self._given = given
        self._added = added

    def pack(self) -> bytes:
        """The bytes of the properties (MQTT 5.0, 3.1.3.2)."""
        return with_user_properties(self._added, b"\x00" if self._given is None else self._given.pack())


@never_raises
def _will_properties(client: Client) -> _WillProperties | None:
    """The properties of the will with the context added; None to leave the will as it is."""
    fields = state_of(client).connect_fields
    has_will, given = private.will_properties(client)
    added: UserProperties = added_fields(fields, user_properties_of(given)) if has_will else ()
    return _WillProperties(given, added) if added else None
