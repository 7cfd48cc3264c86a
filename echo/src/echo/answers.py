"""The answers that were given lately, by the keys of their requests."""

from collections import OrderedDict
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class Answers(Generic[Answer]):
    """A bounded memory: of the answers, the oldest are forgotten first.

    Args:
        size: How large all that are kept may be together.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept = 0
        self._answers: OrderedDict[str, tuple[Answer, int]] = OrderedDict()

    def get(self, key: str) -> Answer | None:
        """The answer to the first request of this key."""
        return self._answers[key][0] if key in self._answers else None

    def keep(self, key: str, answer: Answer, size: int) -> None:
        """Keeps the answer to a request whose key is new."""
        self._answers[key] = answer, size
        self._kept += size
        while self._kept > self._size:
            _, (_, forgotten) = self._answers.popitem(last=False)
            self._kept -= forgotten
