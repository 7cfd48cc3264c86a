"""What the doctor says of one thing that it looked at."""

from dataclasses import dataclass

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


def some(names: list[str], most: int = 3) -> str:
    """The names in one line, however many there are and whatever is in them."""
    shown = ", ".join(printable(name, LONGEST_NAME) for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
