"""The latest answers, by the keys of their requests."""

from collections import OrderedDict

# The memory that Python needs for an entry, besides its key and its answer.
ENTRY_BYTES = 300


class Answers:
    """Keeps answers in a limited amount of memory, and forgets the oldest first.

    Args:
        size: How much memory all answers together may take, in bytes.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept = 0
        self._answers: OrderedDict[str, bytes] = OrderedDict()

    def get(self, key: str) -> bytes | None:
        """The answer to the first request with this key; None if there is none."""
        return self._answers.get(key)

    def keep(self, key: str, answer: bytes) -> None:
        """Stores the answer to a request with a new key."""
        self._answers[key] = answer
        self._kept += ENTRY_BYTES + len(key) + len(answer)
        while self._kept > self._size:
            forgotten_key, forgotten = self._answers.popitem(last=False)
            self._kept -= ENTRY_BYTES + len(forgotten_key) + len(forgotten)
