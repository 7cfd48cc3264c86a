"""``make trace`` and ``make watch``: the backend's traces in the terminal."""

import re
import time
from datetime import datetime

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from stack.console import console
from stack.errors import StackError
from stack.settings import Settings
from stack.trace import LogRecord
from stack.tree import LONGEST_MESSAGE, printable, tree
from stack.viewer import Viewer

# After this time, the services and the Collector have exported all spans of a trace.
QUIET_SECONDS = 1.5
LOOK_SECONDS = 0.5
# The consumer retries a reading for a minute if echo fails.
WATCHED_NANOSECONDS = 120 * 10**9
MOST_AT_ONCE = 5
READING = ("messaging.system", "mqtt")
LOG_STYLES = {"WARN": "yellow", "WARNING": "yellow", "ERROR": "red", "CRITICAL": "red", "FATAL": "red"}


def show(settings: Settings, wanted: str | None) -> None:
    """Prints the trace of the last reading, or of the given id.

    Args:
        settings: The settings with the backend's port.
        wanted: A trace id, or the ``message_id`` of a reading; None for the last reading.

    Raises:
        StackError: If there is no such trace, or no backend on this machine.
    """
    viewer = local_viewer(settings)
    found = wanted_trace_ids(viewer, wanted) if wanted else last_trace_ids(viewer)
    for trace_id in reversed(found[:MOST_AT_ONCE]):
        print_trace(viewer, trace_id)
    if len(found) > MOST_AT_ONCE:
        console.print(f"{len(found) - MOST_AT_ONCE} older traces with this id are not shown.")


def watch(settings: Settings) -> None:
    """Prints each trace as it arrives, until interrupted, or until nobody reads the output.

    Raises:
        StackError: If there is no backend on this machine, or it stops.
    """
    viewer = local_viewer(settings)
    arrivals = Arrivals()
    since = time.time_ns()
    console.print("Waiting for traces; press Ctrl-C to stop.")
    while not console.quiet:
        now = time.time_ns()
        arrived = arrivals.complete(viewer.span_counts(max(since, now - WATCHED_NANOSECONDS), now), time.monotonic())
        for trace_id in arrived[:MOST_AT_ONCE]:
            print_trace(viewer, trace_id)
        if len(arrived) > MOST_AT_ONCE:
            console.print(f"... and {len(arrived) - MOST_AT_ONCE} more traces at the same time.")
        time.sleep(LOOK_SECONDS)


class Arrivals:
    """Finds traces that are complete: their number of spans has not changed for a while."""

    def __init__(self) -> None:
        self._changed: dict[str, tuple[int, float]] = {}
        self._told: dict[str, int] = {}

    def complete(self, span_counts: dict[str, int], now: float) -> list[str]:
        """The complete traces that are new or have grown since the last call; the oldest first.

        Args:
            span_counts: The number of spans of each trace, the newest trace first.
            now: Seconds of a monotonic clock.
        """
        previous = self._changed
        self._changed = {
            trace_id: previous[trace_id] if previous.get(trace_id, (0, 0.0))[0] == count else (count, now)
            for trace_id, count in reversed(span_counts.items())
        }
        self._told = {trace_id: count for trace_id, count in self._told.items() if trace_id in span_counts}
        arrived = [
            trace_id
            for trace_id, (count, changed) in self._changed.items()
            if now - changed >= QUIET_SECONDS and self._told.get(trace_id) != count
        ]
        self._told |= {trace_id: span_counts[trace_id] for trace_id in arrived}
        return arrived


def local_viewer(settings: Settings) -> Viewer:
    """The backend on this machine.

    Raises:
        StackError: If the traces go to Scout.
    """
    if not settings.local_scout:
        raise StackError(f"the traces are in Scout ({settings.scout_otlp_endpoint}); look them up there")
    return Viewer(settings.viewer_port)


def last_trace_ids(viewer: Viewer) -> list[str]:
    """The id of the trace of the last reading that had time to arrive, and of its batch.

    Raises:
        StackError: If there is none.
    """
    now = time.time_ns()
    # Usually there is one in the last minutes, and searching a few is faster than searching all.
    found = viewer.trace_ids(now - WATCHED_NANOSECONDS, now, READING) or viewer.trace_ids(0, now, READING)
    if not found:
        raise StackError("the backend holds no trace of a reading yet; `make verify` makes one")
    started = min((span.start for span in viewer.trace(found[0])), default=now)
    time.sleep(min(QUIET_SECONDS, max(0.0, QUIET_SECONDS - (time.time_ns() - started) / 1e9)))
    return with_batches(viewer, found[:1])


def wanted_trace_ids(viewer: Viewer, wanted: str) -> list[str]:
    """The id of this trace, or of the traces of the reading with this ``message_id``, and of their batches.

    Raises:
        StackError: If there is none.
    """
    wanted = wanted.strip()
    if re.fullmatch("[0-9a-fA-F]{32}", wanted) and viewer.trace(wanted.lower()):
        return with_batches(viewer, [wanted.lower()])
    found = viewer.trace_ids(0, time.time_ns(), ("messaging.message.id", wanted))
    if not found:
        raise StackError(f"the backend holds no trace {wanted}, and no reading with that message_id")
    return with_batches(viewer, found)


def with_batches(viewer: Viewer, trace_ids: list[str]) -> list[str]:
    """These traces and those with a link to one of them, the newest first."""
    linking = [viewer.linking_trace_ids(trace_id, 0, time.time_ns()) for trace_id in trace_ids[:MOST_AT_ONCE]]
    return list(dict.fromkeys([*(trace_id for ids in linking for trace_id in ids), *trace_ids]))


def print_trace(viewer: Viewer, trace_id: str) -> None:
    """Prints one trace and the logs that were written inside it."""
    spans = viewer.trace(trace_id)
    if not spans:
        return
    started = min(span.start for span in spans)
    drawn = tree(spans)
    took = max(span.end for span in spans) - started
    summary = f"  {datetime.fromtimestamp(started / 1e9):%H:%M:%S}, {took / 1e6:.1f} ms"
    drawn.label = Text.assemble(str(drawn.label), (summary, "dim"))
    console.print(drawn, soft_wrap=False)
    if records := viewer.logs(trace_id, started, time.time_ns()):
        console.print(Padding(_log_table(records, started), (0, 0, 0, 2)), soft_wrap=False)
    console.print()


def _log_table(records: list[LogRecord], started: int) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", max_width=16)
    table.add_column(overflow="fold")
    for record in records:
        table.add_row(
            f"+{(record.time - started) / 1e6:.1f} ms",
            Text(record.severity, style=LOG_STYLES.get(record.severity, "dim")),
            Text(printable(record.service, LONGEST_MESSAGE), style="cyan"),
            Text(printable(record.body, LONGEST_MESSAGE)),
        )
    return table
