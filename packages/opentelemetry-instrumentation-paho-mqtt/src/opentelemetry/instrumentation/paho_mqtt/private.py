# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""All uses of paho-mqtt's private names. With a version that lacks one, only the features that need it are lost."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

import paho.mqtt
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties

_logger = logging.getLogger(__name__)

_ACKNOWLEDGEMENTS = "publish spans end when the message is handed over, not when it is acknowledged"
_DISCONNECTS = "publish spans stay open when a connection ends for good"
_SERVER = "spans do not say which server it is"
_WILL = "a will carries no trace context"

# What is lost without each attribute of a client.
_LOST_WITHOUT = {
    "_client_id": "spans do not say which client it is",
    "_easy_log": "exceptions of handlers that paho suppresses are not seen",
    "_host": _SERVER,
    "_in_packet": _ACKNOWLEDGEMENTS,
    "_inflight_messages": "the messages in flight are not counted",
    "_manual_ack": "there are no settle spans",
    "_out_messages": _ACKNOWLEDGEMENTS,
    "_port": _SERVER,
    "_protocol": "no trace context is written into JSON payloads",
    "_reconnect_on_failure": _DISCONNECTS,
    "_state": _DISCONNECTS,
    "_transport": _SERVER,
    "_will": _WILL,
    "_will_properties": _WILL,
}
_missing: set[str] = set()


def check() -> None:
    """Warns about each name that this version of paho-mqtt lacks, before anything needs it."""
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
    """Warns once that paho-mqtt lacks a private name."""
    if name not in _missing:
        _missing.add(name)
        lost = lost or _LOST_WITHOUT[name]
        _logger.warning("paho-mqtt %s has no Client.%s: %s", paho.mqtt.__version__, name, lost)


def sees_acknowledgements() -> bool:
    """Whether acknowledgements of messages can be observed."""
    return not _missing or _missing.isdisjoint(("_handle_pubackcomp", "_in_packet", "_out_messages"))


def protocol(client: Client) -> MQTTProtocolVersion | None:
    """The version of MQTT. In paho-mqtt 2.0 the public property recurses without end."""
    try:
        return client._protocol
    except AttributeError:
        return lacks("_protocol")


def server(client: Client) -> tuple[str, int | None]:
    """Address and port of the server; the port is None for a Unix socket."""
    try:
        return client._host, None if client._transport == "unix" else client._port
    except AttributeError as error:
        lacks(error.name or "_host")
        return "", None


def client_id(client: Client) -> bytes:
    """The client id; it can be empty until the server has assigned one."""
    try:
        return client._client_id
    except AttributeError:
        return lacks("_client_id") or b""


def peer(socket: Any) -> tuple[str, int | None] | None:
    """Address and port (if any) of the other end of a socket; for a WebSocket, of the socket below it."""
    try:
        name: Any = getattr(socket, "_socket", socket).getpeername()
    except (AttributeError, OSError):
        return None
    if isinstance(name, str):
        return (name, None) if name else None
    return str(name[0]), int(name[1])


def acknowledges_itself(client: Client) -> bool:
    """Whether the client acknowledges messages itself, with ``ack()``."""
    try:
        return client._manual_ack
    except AttributeError:
        return lacks("_manual_ack") or False


def in_flight(client: Client) -> int:
    """The number of messages with QoS 1 or 2 that are in flight."""
    try:
        return client._inflight_messages
    except AttributeError:
        return lacks("_inflight_messages") or 0


def will_properties(client: Client) -> tuple[bool, Properties | None]:
    """Whether there is a will, and its properties."""
    try:
        return client._will, client._will_properties
    except AttributeError as error:
        lacks(error.name or "_will")
        return False, None


@contextmanager
def replaced_will_properties(client: Client, properties: Any) -> Generator[None, None, None]:
    """Replaces the properties of the will temporarily."""
    given = client._will_properties
    client._will_properties = properties
    try:
        yield
    finally:
        client._will_properties = given


def waiting(client: Client, mid: int) -> MQTTMessage | None:
    """The message with this id that waits for an acknowledgement; None if there is none."""
    try:
        return client._out_messages.get(mid)
    except AttributeError:
        return lacks("_out_messages")


def all_waiting(client: Client) -> list[MQTTMessage]:
    """All messages that wait for an acknowledgement. Takes none of paho's locks, which may never be released."""
    try:
        return list(client._out_messages.values())
    except AttributeError:
        return lacks("_out_messages") or []


def packet(client: Client) -> bytes:
    """The bytes after the fixed header of the packet that paho is handling."""
    try:
        return cast(Any, client)._in_packet["packet"]
    except (AttributeError, KeyError, TypeError):
        return lacks("_in_packet") or b""


def will_reconnect(client: Client) -> bool:
    """Whether paho will reconnect after the connection that has just ended."""
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
