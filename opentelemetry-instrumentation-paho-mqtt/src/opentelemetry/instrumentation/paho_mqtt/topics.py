# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""Topics and the filters that match them (MQTT 5.0, 4.7)."""

from __future__ import annotations

from collections.abc import Iterable

from paho.mqtt.matcher import MQTTMatcher


class TopicFilters:
    """A list of MQTT topic filters, asked for the first that matches a topic.

    Args:
        filters: Topic filters such as ``sensors/+/reading`` or ``sensors/#``.

    Raises:
        TypeError: A single string was given, where each character would count as a filter.
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
