# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""A client's subscriptions: the filter that matches a topic becomes the template of the topic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from opentelemetry.instrumentation.paho_mqtt.clients import state_of
from opentelemetry.instrumentation.paho_mqtt.failures import never_raises
from paho.mqtt.client import Client


def subscribe(wrapped: Callable[..., Any], client: Client, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Wraps ``Client.subscribe``."""
    # Before the call, because the first message may come before it returns.
    _subscribed(client, args, kwargs)
    return wrapped(*args, **kwargs)


def unsubscribe(wrapped: Callable[..., Any], client: Client, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Wraps ``Client.unsubscribe``."""
    result = wrapped(*args, **kwargs)
    _unsubscribed(client, args, kwargs)
    return result


@never_raises
def _subscribed(client: Client, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    state_of(client).subscribed(_names(*args[:1], **kwargs))


@never_raises
def _unsubscribed(client: Client, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    state_of(client).unsubscribed(_names(*args[:1], **kwargs))


def _names(topic: Any = None, **_: Any) -> list[str]:
    """The names in the argument ``topic``, which is one name or a list, each with or without options."""
    entries = cast(list[Any], topic) if isinstance(topic, list) else [topic]
    names: list[Any] = [entry[0] if isinstance(entry, tuple) and entry else entry for entry in entries]
    return [name for name in names if isinstance(name, str)]
