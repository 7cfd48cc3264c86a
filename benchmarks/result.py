"""What a benchmark gives: tables, and targets with what was measured."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

Cell = str | float
Name = TypeVar("Name")
Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Table:
    """Figures with a heading for each column; the first column names the row."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


@dataclass(frozen=True)
class Target:
    """A target for a figure."""

    what: str
    at_least: float
    measured: float

    @property
    def verdict(self) -> str:
        """Tells whether the target is reached, or by how much it is missed."""
        if self.measured >= self.at_least:
            return "met"
        return f"missed by {self.at_least - self.measured:.2f}"


@dataclass(frozen=True)
class Result:
    """The results of one benchmark."""

    tables: Sequence[Table]
    targets: Sequence[Target] = field(default=())


def alternating(runs: Mapping[Name, Callable[[], Outcome]], rounds: int) -> dict[Name, list[Outcome]]:
    """Runs all variants in turn, in several rounds, so that other load on the machine affects all of them alike."""
    outcomes: dict[Name, list[Outcome]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            outcomes[name].append(run())
    return outcomes


def median_ratio(measured: Sequence[float], reference: Sequence[float]) -> float:
    """The median over the rounds of the ratio within a round."""
    return statistics.median(one / other for one, other in zip(measured, reference, strict=True))


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that this percentage of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(percent / 100 * len(ordered)) - 1))]
