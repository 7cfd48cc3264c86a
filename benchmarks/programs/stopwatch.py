"""Times a program from its first reading to its last."""

import itertools
import json
import sys
import time
from collections.abc import Callable


class Stopwatch:
    """Starts at the first tick; at the last tick it prints the elapsed seconds and the CPU seconds.

    Args:
        ticks: The number of ticks; they may come from several threads.
        then: Called after the last tick.
    """

    def __init__(self, ticks: int, then: Callable[[], object] = lambda: None) -> None:
        self._ticks = ticks
        self._then = then
        self._numbers = itertools.count(1)

    def tick(self) -> None:
        """Counts one finished reading."""
        number = next(self._numbers)
        if number == 1:
            self._started = time.perf_counter(), time.process_time()
        if number == self._ticks:
            seconds, cpu_seconds = time.perf_counter() - self._started[0], time.process_time() - self._started[1]
            sys.stdout.write(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds}) + "\n")
            sys.stdout.flush()
            self._then()
