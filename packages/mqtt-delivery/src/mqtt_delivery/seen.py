"""Remembers which messages were processed lately, by their ids."""

from __future__ import annotations

import threading
from collections import OrderedDict

# A longer text is not taken as an id, so that a flood of them cannot fill the memory.
MAXIMUM_ID_CHARACTERS = 256


class Seen:
    """Remembers a limited number of ids, and forgets the oldest first.

    Args:
        size: How many ids to remember; 0: none.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._ids: OrderedDict[str, None] = OrderedDict()

    def add(self, identifier: str | None) -> None:
        """Remembers the id of a processed message."""
        if not self._size or identifier is None:
            return
        with self._lock:
            self._ids[identifier] = None
            if len(self._ids) > self._size:
                self._ids.popitem(last=False)

    def __contains__(self, identifier: str | None) -> bool:
        return identifier in self._ids
