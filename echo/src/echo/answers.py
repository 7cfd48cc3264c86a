"""The answers that were given lately, by the keys of their requests."""

from collections import OrderedDict

# The memory that Python needs for an entry, besides its key and its answer.
ENTRY_BYTES = 300


class Answers:
    """A bounded memory: of the answers, the oldest are forgotten first.

    Args:
        size: How much memory all that are kept may take, in bytes.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept = 0
        self._answers: OrderedDict[str, bytes] = OrderedDict()

    def get(self, key: str) -> bytes | None:
        """The answer to the first request of this key."""
        return self._answers.get(key)

    def keep(self, key: str, answer: bytes) -> None:
        """Keeps the answer to a request whose key is new."""
        self._answers[key] = answer
        self._kept += ENTRY_BYTES + len(key) + len(answer)
        while self._kept > self._size:
            forgotten_key, forgotten = self._answers.popitem(last=False)
            self._kept -= ENTRY_BYTES + len(forgotten_key) + len(forgotten)
