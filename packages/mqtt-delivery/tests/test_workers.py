import threading
import time
from collections.abc import Sequence

from test_acknowledgements import delivery

from mqtt_delivery.acknowledgements import Delivery
from mqtt_delivery.workers import Lane, Workers


def numbered(number: int) -> Delivery:
    made = delivery(number)
    made.number = number
    return made


def ends(workers: Workers, last: int = 10**9, seconds: float = 5.0) -> None:
    workers.stop(lambda: last, lambda: True, seconds)


def test_what_has_one_key_stays_in_order() -> None:
    for batch_size in (1, 7):
        handled: dict[str, list[int]] = {}
        everything = threading.Semaphore(0)

        def note(lane: Lane, done: Delivery) -> None:
            handled.setdefault(lane.key, []).append(done.number)  # noqa: B023 (called within the round)
            everything.release()  # noqa: B023

        def together(deliveries: Sequence[Delivery]) -> bool:
            for done in deliveries:
                assert done.lane is not None
                note(done.lane, done)
            return True

        workers = Workers(4, note, together, batch_size, batch_seconds=0.01)
        for number in range(500):
            workers.submit(f"key-{number % 13}", numbered(number))
        assert all(everything.acquire(timeout=10) for _ in range(500))
        assert workers.waiting == 0
        ends(workers)
        assert len(handled) == 13
        assert all(numbers == sorted(numbers) for numbers in handled.values())


def test_a_key_that_waits_for_its_next_attempt_occupies_no_thread() -> None:
    handled: list[str] = []
    everything = threading.Semaphore(0)

    def work(lane: Lane, done: Delivery) -> float | None:
        if lane.key.startswith("bad"):
            return 60.0
        handled.append(lane.key)
        everything.release()
        return None

    workers = Workers(1, work)
    for number in range(20):
        workers.submit(f"bad-{number}", numbered(number))
        workers.submit(f"good-{number}", numbered(100 + number))
    assert all(everything.acquire(timeout=10) for _ in range(20))
    assert handled == [f"good-{number}" for number in range(20)]
    ends(workers, last=0)


def test_an_attempt_is_made_when_its_pause_is_over_and_can_be_brought_forward() -> None:
    attempts: list[float] = []
    done = threading.Event()
    waiting = threading.Event()

    def work(lane: Lane, tried: Delivery) -> float | None:
        attempts.append(time.monotonic())
        if len(attempts) == 1:
            return 0.2
        if len(attempts) == 2:
            waiting.set()
            return 60.0
        done.set()
        return None

    workers = Workers(1, work)
    only = numbered(1)
    workers.hurry(only, lambda lane: 0.0)  # it is in no lane yet
    workers.submit("key", only)
    assert waiting.wait(10)
    while not done.wait(0.02):
        workers.hurry(only, lambda lane: time.monotonic() + 100)
        workers.hurry(only, lambda lane: time.monotonic())
    assert 0.2 <= attempts[1] - attempts[0] < 5
    assert attempts[2] - attempts[1] < 5
    ends(workers)


def test_stopping_finishes_what_must_be_finished_and_begins_nothing_else() -> None:
    begun, go_on = threading.Event(), threading.Event()
    handled: list[int] = []

    def work(lane: Lane, done: Delivery) -> None:
        begun.set()
        assert go_on.wait(10)
        handled.append(done.number)

    workers = Workers(1, work)
    for number in range(5):
        workers.submit("a" if number < 3 else "b", numbered(number))
    assert begun.wait(10)
    threading.Timer(0.1, go_on.set).start()
    workers.stop(lambda: 1, lambda: len(handled) >= 2, 5)
    assert handled == [0, 1]
    workers.submit("c", numbered(9))
    assert handled == [0, 1]


def test_stopping_does_not_wait_for_ever() -> None:
    go_on = threading.Event()

    def work(lane: Lane, done: Delivery) -> None:
        go_on.wait(10)

    workers = Workers(1, work)
    workers.submit("a", numbered(1))
    started = time.monotonic()
    ends(workers, seconds=0.1)
    assert time.monotonic() - started < 5
    go_on.set()


def test_a_batch_that_fails_is_worked_on_one_by_one_and_stops_at_the_first_that_waits() -> None:
    handled: list[int] = []
    done = threading.Event()

    def work(lane: Lane, tried: Delivery) -> float | None:
        handled.append(tried.number)
        if tried.number == 2 and handled.count(2) == 1:
            return 0.05
        if tried.number == 3:
            done.set()
        return None

    workers = Workers(1, work, lambda deliveries: False, batch_size=10, batch_seconds=0.2)
    for number in (1, 2, 3):
        workers.submit("key", numbered(number))
    assert done.wait(10)
    ends(workers)
    assert handled == [1, 2, 2, 3]
