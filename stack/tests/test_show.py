"""Which traces ``make watch`` shows, and when."""

from stack.show import QUIET_SECONDS, Arrivals


def test_a_trace_is_shown_when_it_has_stopped_growing_and_once() -> None:
    arrivals = Arrivals()
    assert arrivals.complete({"a": 1}, 0.0) == []
    assert arrivals.complete({"a": 4}, QUIET_SECONDS) == []
    assert arrivals.complete({"a": 4}, QUIET_SECONDS * 1.9) == []
    assert arrivals.complete({"a": 4}, QUIET_SECONDS * 2) == ["a"]
    assert arrivals.complete({"a": 4}, QUIET_SECONDS * 3) == []


def test_a_trace_that_grows_later_is_shown_again() -> None:
    arrivals = Arrivals()
    arrivals.complete({"a": 1}, 0.0)
    assert arrivals.complete({"a": 1}, QUIET_SECONDS) == ["a"]
    assert arrivals.complete({"a": 2}, QUIET_SECONDS * 2) == []
    assert arrivals.complete({"a": 2}, QUIET_SECONDS * 3) == ["a"]


def test_the_oldest_comes_first() -> None:
    arrivals = Arrivals()
    arrivals.complete({"newest": 1, "oldest": 1}, 0.0)
    assert arrivals.complete({"newest": 1, "oldest": 1}, QUIET_SECONDS) == ["oldest", "newest"]


def test_what_has_left_the_window_is_forgotten() -> None:
    arrivals = Arrivals()
    for number in range(1000):
        arrivals.complete({str(number): 1}, number * QUIET_SECONDS)
    assert len(arrivals._changed) + len(arrivals._told) <= 2
