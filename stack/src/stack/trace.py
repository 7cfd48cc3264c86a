"""A trace from a backend, and the interface of a trace backend."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from stack.part import local_url

Value = str | int | float | bool


@dataclass(frozen=True)
class Span:
    """One span; times in nanoseconds since 1970."""

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    kind: str
    service: str
    start: int
    end: int
    attributes: Mapping[str, Value]
    resource: Mapping[str, Value]
    status: str = "Unset"
    status_message: str = ""
    links: tuple[tuple[str, str], ...] = ()

    @property
    def milliseconds(self) -> float:
        """The duration in milliseconds."""
        return (self.end - self.start) / 1e6


def children(spans: list[Span], parent: Span) -> list[Span]:
    """The spans below one span, in the order of their start."""
    return sorted((span for span in spans if span.parent_id == parent.span_id), key=lambda span: span.start)


def roots(spans: list[Span]) -> list[Span]:
    """The spans whose parent is missing, in the order of their start."""
    known = {span.span_id for span in spans}
    return sorted((span for span in spans if span.parent_id not in known), key=lambda span: span.start)


@dataclass(frozen=True)
class LogRecord:
    """One line of a log that was written inside a trace."""

    # Nanoseconds since 1970.
    time: int
    severity: str
    service: str
    # The first 200 characters.
    body: str


class TraceBackend(ABC):
    """A backend that can be queried for traces. Times are in nanoseconds since 1970.

    Raises:
        StackError: From each method that queries, if the backend does not answer.
    """

    def __init__(self, port: int) -> None:
        self._url = local_url(port)

    @abstractmethod
    def trace(self, trace_id: str) -> list[Span]:
        """All spans of one trace; empty while there are none."""

    @abstractmethod
    def page(self, trace_id: str) -> str:
        """The address of a trace's page."""

    def linking_trace_ids(self, trace_id: str, start: int, end: int) -> list[str]:
        """Ids of the traces that have a span with a link into one trace; none if links cannot be searched."""
        return []
