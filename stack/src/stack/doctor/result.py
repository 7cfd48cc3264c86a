"""What the doctor says of one thing that it looked at."""

from dataclasses import dataclass
from typing import Protocol

from stack.tree import LONGEST_NAME, printable


@dataclass(frozen=True)
class Result:
    """One line: what is so, and, if something is wrong with it, the fix."""

    title: str
    says: str
    fix: str = ""

    @property
    def healthy(self) -> bool:
        """Whether there is nothing to mend."""
        return not self.fix


class Runtime(Protocol):
    """What the doctor needs of a runtime."""

    def log_text(self, part: str) -> str:
        """The whole log of a part."""
        ...

    def states(self) -> list[tuple[str, str, str]]:
        """Name, state and address of each part."""
        ...

    def environment(self, part: str) -> dict[str, str]:
        """The variables that a part was started with."""
        ...

    def authority(self) -> str:
        """The certificate, as PEM, of the authority that vouches for the broker."""
        ...


def some(names: list[str], most: int = 3) -> str:
    """The names in one line, however many there are and whatever is in them."""
    shown = ", ".join(printable(name, LONGEST_NAME) for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
