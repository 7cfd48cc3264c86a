"""Tracks from which keys messages come, and which have fallen silent."""

from __future__ import annotations

import time
from collections import OrderedDict

# A key that was silent for this time is no longer watched.
FORGET_SECONDS = 3600.0
# Beyond this number, the key that was silent the longest is forgotten. Only the hash of a key is kept.
MAXIMUM_KEYS = 100_000


class KeysHeard:
    """Notes when the last message came from each key; written by one thread.

    Args:
        silent_seconds: A key is silent when no message came from it for this time.
    """

    def __init__(self, silent_seconds: float) -> None:
        self._silent_seconds = silent_seconds
        self._heard: OrderedDict[int, float] = OrderedDict()

    def heard(self, key: str) -> None:
        """Notes that a message came."""
        now = time.monotonic()
        identity = hash(key)
        self._heard[identity] = now
        self._heard.move_to_end(identity)
        _, oldest = next(iter(self._heard.items()))
        if len(self._heard) > MAXIMUM_KEYS or now - oldest > FORGET_SECONDS:
            self._heard.popitem(last=False)

    @property
    def silent(self) -> int:
        """The number of silent keys."""
        now = time.monotonic()
        return sum(self._silent_seconds < now - last <= FORGET_SECONDS for last in list(self._heard.values()))
