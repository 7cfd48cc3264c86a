"""The result of one check of the doctor."""

from dataclasses import dataclass

from stack.tree import LONGEST_NAME, printable


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


def some(names: list[str], most: int = 3) -> str:
    """The names in one line, shortened if there are many, and printable."""
    shown = ", ".join(printable(name, LONGEST_NAME) for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
