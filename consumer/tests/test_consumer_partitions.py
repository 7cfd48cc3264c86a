import threading
from collections.abc import Callable
from typing import Any

import pytest

from consumer.partitions import Partitions


class Held:
    """Stands in for the consumer of a partition; it runs until the test ends it."""

    def __init__(self, ends: Callable[[], bool] | None = None) -> None:
        self.live = self.healthy = True
        self._ends = ends

    def run(self, stop: threading.Event, drain_seconds: float) -> bool:
        if self._ends:
            return self._ends()
        assert stop.wait(20)
        return True


def fails() -> bool:
    raise OSError("gone")


def run(*held: Any) -> bool:
    return Partitions(held).run(threading.Event(), lambda: None, 3.0)


def test_when_one_cannot_go_on_all_end_and_the_process_is_started_again() -> None:
    assert run(Held(), Held(lambda: False), Held()) is False
    with pytest.raises(OSError, match="gone"):
        run(Held(), Held(fails))


def test_it_is_as_healthy_as_the_least_healthy_partition() -> None:
    one, other = Held(), Held()
    both: Any = Partitions([one, other])  # pyright: ignore[reportArgumentType]
    assert both.live
    assert both.healthy
    other.healthy = False
    assert both.live
    assert not both.healthy
    other.live = False
    assert not both.live


def test_it_is_told_to_stop() -> None:
    stop = threading.Event()
    held: Any = [Held(), Held()]
    assert Partitions(held).run(stop, stop.set, 3.0) is True
