"""The result of one check of the doctor."""

from collections.abc import Iterable
from dataclasses import dataclass

from stack.tree import LONGEST_NAME, printable

MOST_NAMES = 3


@dataclass(frozen=True)
class Result:
    """One line: what was found, and the fix if something is wrong."""

    title: str
    says: str
    fix: str = ""

    @property
    def healthy(self) -> bool:
        """True if there is nothing to fix."""
        return not self.fix


def some(names: Iterable[str]) -> str:
    """The different names in one line, the first of them if there are many, and printable."""
    found = sorted(set(names))
    shown = ", ".join(printable(name, LONGEST_NAME) for name in found[:MOST_NAMES])
    return f"{shown} and {len(found) - MOST_NAMES} more" if len(found) > MOST_NAMES else shown
