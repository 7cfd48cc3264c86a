# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""Topics and the filters that match them (MQTT 5.0, 4.7)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from paho.mqtt.matcher import MQTTMatcher

_SHARED = "$share/"


class TopicFilters:
    """A list of MQTT topic filters, to find the first that matches a topic.

    Args:
        filters: Topic filters such as ``sensors/+/reading`` or ``sensors/#``.

    Raises:
        TypeError: A single string was given, of which each character would count as a filter.
    """

    def __init__(self, filters: Iterable[str]) -> None:
        if isinstance(filters, str):
            raise TypeError(f"a list of topic filters is needed, not the string {filters!r}")
        self._matcher = MQTTMatcher()
        self._empty = True
        for position, topic_filter in reversed(list(enumerate(filters))):
            self._matcher[topic_filter] = (position, topic_filter)
            self._empty = False

    def __bool__(self) -> bool:
        return not self._empty

    def match(self, topic: str) -> str | None:
        """The first filter that matches the topic, or None."""
        if self._empty:
            return None
        matches: list[tuple[int, str]] = list(self._matcher.iter_match(topic))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType] (paho has no types here)
        return min(matches)[1] if matches else None


class Subscription(NamedTuple):
    """A subscription of a client, alone or in a group that shares the messages (MQTT 5.0, 4.8.2)."""

    topic_filter: str
    group: str | None

    @classmethod
    def parse(cls, name: str) -> Subscription:
        """Splits ``$share/<group>/<filter>``; every other name is a topic filter."""
        if name.startswith(_SHARED):
            group, _, topic_filter = name.removeprefix(_SHARED).partition("/")
            if group and topic_filter:
                return cls(topic_filter, group)
        return cls(name, None)


class Subscriptions:
    """The subscriptions of a client, to find the one that matches a topic most closely. Never modified.

    Args:
        by_name: The subscriptions, by the names that the client used.
    """

    def __init__(self, by_name: Mapping[str, Subscription]) -> None:
        self.by_name = by_name
        self._matcher = MQTTMatcher()
        for subscription in by_name.values():
            self._matcher[subscription.topic_filter] = subscription

    def match(self, topic: str) -> Subscription | None:
        """The subscription whose filter matches the topic most closely: a name before ``+``, and ``+`` before ``#``."""
        return next(self._matcher.iter_match(topic), None) if self.by_name else None  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType, reportUnknownVariableType] (paho has no types here)
