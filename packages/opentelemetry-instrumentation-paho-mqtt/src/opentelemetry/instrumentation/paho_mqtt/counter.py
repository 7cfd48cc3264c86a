# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""A counter of messages that costs a message one addition."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from weakref import WeakKeyDictionary

from opentelemetry.metrics import CallbackOptions, Meter, ObservableCounter, Observation
from opentelemetry.util.types import AttributeValue

# A finalizer may publish while the same thread counts.
_lock = threading.RLock()


class _Counts:
    """How many messages there were with each set of attributes."""

    def __init__(self) -> None:
        self._counts: dict[tuple[tuple[str, AttributeValue], ...], int] = {}

    def add(self, amount: int, attributes: Mapping[str, AttributeValue]) -> None:
        """Adds messages."""
        key = tuple(attributes.items())
        with _lock:
            self._counts[key] = self._counts.get(key, 0) + amount

    def observe(self, options: CallbackOptions) -> Iterable[Observation]:
        """The counts of now."""
        with _lock:
            counts = self._counts.copy()
        return [Observation(count, dict(key)) for key, count in counts.items()]


# A meter that is asked for an instrument again returns the existing one, with its first callback.
_of_instruments: WeakKeyDictionary[ObservableCounter, _Counts] = WeakKeyDictionary()


class MessageCounter:
    """The asynchronous equivalent of a counter, which the conventions allow for `each of theirs`_.

    An SDK works out from all attributes, for each addition, which time series they belong to: that costs a message as
    much as half of its span. Here it is done when the metrics are collected.

    .. _each of theirs: https://opentelemetry.io/docs/specs/semconv/general/metrics/#instrument-types

    Args:
        meter: Makes the instrument; an SDK's, as another one would return a new instrument each time.
        name: Of the metric.
        description: Likewise.
    """

    def __init__(self, meter: Meter, name: str, description: str) -> None:
        counts = _Counts()
        instrument = meter.create_observable_counter(name, [counts.observe], "{message}", description)
        self._counts = _of_instruments.setdefault(instrument, counts)

    def add(self, amount: int, attributes: Mapping[str, AttributeValue]) -> None:
        """Adds messages with these attributes."""
        self._counts.add(amount, attributes)


def _forked() -> None:
    """Another thread may have held the lock when this process was forked off; it does not exist here."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
