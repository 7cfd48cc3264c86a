# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""A counter of messages that costs only one addition per message."""

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
    """The number of messages for each set of attributes."""

    def __init__(self) -> None:
        self._counts: dict[tuple[tuple[str, AttributeValue], ...], int] = {}

    def add(self, amount: int, attributes: Mapping[str, AttributeValue]) -> None:
        """Adds messages."""
        key = tuple(attributes.items())
        with _lock:
            self._counts[key] = self._counts.get(key, 0) + amount

    def observe(self, options: CallbackOptions) -> Iterable[Observation]:
        """Reports the current counts."""
        with _lock:
            counts = self._counts.copy()
        return [Observation(count, dict(key)) for key, count in counts.items()]


# If a meter is asked for an instrument again, it returns the existing one, with its first callback.
_of_instruments: WeakKeyDictionary[ObservableCounter, _Counts] = WeakKeyDictionary()


class MessageCounter:
    """The asynchronous equivalent of a counter, which the conventions allow for `every instrument`_.

    At each addition, an SDK finds the time series from all attributes, which costs half as much as the message's span.
    Here this happens only when the metrics are collected.

    .. _every instrument: https://opentelemetry.io/docs/specs/semconv/general/metrics/#instrument-types

    Args:
        meter: The meter that makes the instrument. It must be an SDK's: others return a new instrument each time.
        name: The name of the metric.
        description: The description of the metric.
    """

    def __init__(self, meter: Meter, name: str, description: str) -> None:
        counts = _Counts()
        instrument = meter.create_observable_counter(name, [counts.observe], "{message}", description)
        self._counts = _of_instruments.setdefault(instrument, counts)

    def add(self, amount: int, attributes: Mapping[str, AttributeValue]) -> None:
        """Adds messages with these attributes."""
        self._counts.add(amount, attributes)


def _forked() -> None:
    """Makes a new lock: a thread that does not exist in this process may have held the old one at the fork."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
