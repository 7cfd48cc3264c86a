"""Which keys have been heard of, and which have fallen silent."""

from __future__ import annotations

import time
from collections import OrderedDict

# What was silent for so long is no longer asked after.
FORGET_SECONDS = 3600.0
# Of more keys, the one that was silent the longest is forgotten. A key is kept by its hash, however long it is.
MAXIMUM_KEYS = 100_000


class KeysHeard:
    """Notes when something came from each key; written by one thread.

    Args:
        silent_seconds: A key is silent when nothing came from it for so long.
    """

    def __init__(self, silent_seconds: float) -> None:
        self._silent_seconds = silent_seconds
        self._heard: OrderedDict[int, float] = OrderedDict()

    def heard(self, key: str) -> None:
        """Notes that something came."""
        now = time.monotonic()
        identity = hash(key)
        self._heard[identity] = now
        self._heard.move_to_end(identity)
        _, oldest = next(iter(self._heard.items()))
        if len(self._heard) > MAXIMUM_KEYS or now - oldest > FORGET_SECONDS:
            self._heard.popitem(last=False)

    @property
    def silent(self) -> int:
        """How many are silent."""
        now = time.monotonic()
        return sum(self._silent_seconds < now - last <= FORGET_SECONDS for last in list(self._heard.values()))
