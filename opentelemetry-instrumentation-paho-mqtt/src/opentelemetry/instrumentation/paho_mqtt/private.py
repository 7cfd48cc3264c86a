# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""What is private in paho-mqtt, in one place. A version without one of these names loses what needs it, and no more."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, cast

import paho.mqtt
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

_logger = logging.getLogger(__name__)

_ACKNOWLEDGEMENTS = "publish spans end when the message is handed over, not when it is acknowledged"
_DISCONNECTS = "publish spans stay open when a connection ends for good"
_SERVER = "spans do not say which server it is"

# What is lost without each attribute of a client.
_LOST_WITHOUT = {
    "_client_id": "spans do not say which client it is",
    "_easy_log": "exceptions of handlers that paho suppresses are not seen",
    "_host": _SERVER,
    "_in_packet": _ACKNOWLEDGEMENTS,
    "_out_messages": _ACKNOWLEDGEMENTS,
    "_port": _SERVER,
    "_protocol": "no trace context is written into JSON payloads",
    "_reconnect_on_failure": _DISCONNECTS,
    "_state": _DISCONNECTS,
    "_transport": _SERVER,
}
_missing: set[str] = set()


def check() -> None:
    """Warns of each name that this version of paho-mqtt lacks, before anything needs it."""
    try:
        client = Client(CallbackAPIVersion.VERSION2)
    except Exception:
        _logger.exception("no client can be made to look at")
        return
    for name in _LOST_WITHOUT:
        if hasattr(client, name):
            _missing.discard(name)
        else:
            lacks(name)


def lacks(name: str, lost: str = "") -> None:
    """Warns, once, that paho-mqtt lacks a private name."""
    if name not in _missing:
        _missing.add(name)
        lost = lost or _LOST_WITHOUT[name]
        _logger.warning("paho-mqtt %s has no Client.%s: %s", paho.mqtt.__version__, name, lost)


def sees_acknowledgements() -> bool:
    """Whether the acknowledgement of a message can be told."""
    return not _missing or _missing.isdisjoint(("_handle_pubackcomp", "_in_packet", "_out_messages"))


def protocol(client: Client) -> MQTTProtocolVersion | None:
    """The version of MQTT. The public property calls itself for ever in paho-mqtt 2.0."""
    try:
        return client._protocol
    except AttributeError:
        return lacks("_protocol")


def server(client: Client) -> tuple[str, int | None]:
    """Address and port of the server; no port for a Unix socket."""
    try:
        return client._host, None if client._transport == "unix" else client._port
    except AttributeError as error:
        lacks(error.name or "_host")
        return "", None


def client_id(client: Client) -> bytes:
    """The client id, which is empty until the server has chosen one."""
    try:
        return client._client_id
    except AttributeError:
        return lacks("_client_id") or b""


def waiting(client: Client, mid: int) -> MQTTMessage | None:
    """The message that waits for an acknowledgement under a message id."""
    try:
        return client._out_messages.get(mid)
    except AttributeError:
        return lacks("_out_messages")


def all_waiting(client: Client) -> list[MQTTMessage]:
    """All messages that wait for an acknowledgement; none of paho's locks is taken, for it may be held for ever."""
    try:
        return list(client._out_messages.values())
    except AttributeError:
        return lacks("_out_messages") or []


def packet(client: Client) -> bytes:
    """What the packet that paho handles just now holds after its fixed header."""
    try:
        return cast(Any, client)._in_packet["packet"]
    except (AttributeError, KeyError, TypeError):
        return lacks("_in_packet") or b""


def will_reconnect(client: Client) -> bool:
    """Whether paho opens the connection again that has just ended."""
    try:
        state = client._state.name
        return client._reconnect_on_failure and state not in ("MQTT_CS_DISCONNECTING", "MQTT_CS_DISCONNECTED")
    except AttributeError as error:
        lacks(error.name or "_state", _DISCONNECTS)
        return True


def log_method(client: Client) -> Callable[..., None] | None:
    """The method through which paho logs."""
    try:
        return client._easy_log
    except AttributeError:
        return lacks("_easy_log")


def topic_bytes(message: MQTTMessage) -> bytes:
    """The topic of a message that is not valid UTF-8."""
    return message._topic
