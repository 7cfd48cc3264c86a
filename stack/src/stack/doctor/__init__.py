"""``make doctor``: the usual reasons why a trace does not appear, and how to fix each. It changes nothing."""

import threading
import time
from collections.abc import Callable, Iterator

from rich.text import Text

from stack.console import console
from stack.doctor import backend, broker, collector, scout
from stack.doctor.result import Result
from stack.errors import StackError
from stack.runtime import Runtime
from stack.settings import Settings

SECONDS = 14.0


def doctor(runtime: Runtime, settings: Settings) -> int:
    """Runs all checks at the same time, and prints a line for each result; returns the exit code."""
    deadline = time.monotonic() + SECONDS
    groups = [
        _Group("parts", lambda: parts(runtime)),
        _Group("broker", lambda: broker.examine(runtime, settings)),
        _Group("scout", lambda: scout.examine(runtime, settings)),
        _Group("collector", lambda: collector.examine(settings)),
        _Group("backend", lambda: backend.examine(settings)),
    ]
    found = 0
    for group in groups:
        for result in group.results(deadline):
            found += not result.healthy
            console.print(_line(result))
    console.print("All is well." if not found else "1 finding." if found == 1 else f"{found} findings.")
    return 1 if found else 0


def parts(runtime: Runtime) -> Iterator[Result]:
    """Checks that each part runs."""
    away = runtime.away()
    for name, state in away.items():
        yield Result("parts", f"{name} is {state}.", f"`make up` starts it; `make logs PART={name}` shows its log.")
    if not away:
        yield Result("parts", "all are healthy.")


class _Group(threading.Thread):
    """Checks that run one after the other, at the same time as the other groups."""

    def __init__(self, title: str, examine: Callable[[], Iterator[Result]]) -> None:
        super().__init__(daemon=True)
        self._title = title
        self._examine = examine
        self._results: list[Result] = []
        self._failed: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self._results.extend(self._examine())
        except StackError as error:
            self._results.append(Result(self._title, f"{error}.", "`make ps` shows what runs, `make up` starts it."))
        except Exception as error:
            self._failed = error

    def results(self, deadline: float) -> list[Result]:
        """Waits for the results until a time of the monotonic clock, in seconds."""
        self.join(max(0.0, deadline - time.monotonic()))
        if self._failed:
            raise self._failed
        if self.is_alive():
            late = Result(self._title, f"no answer within {SECONDS:.0f} s.", "`make ps` shows which part hangs.")
            return [*self._results, late]
        return self._results


def _line(result: Result) -> Text:
    mark = ("✓", "green") if result.healthy else ("✗", "red")
    line = Text.assemble(mark, f" {result.title}: {result.says}")
    return line.append(f" Fix: {result.fix}" if result.fix else "")
