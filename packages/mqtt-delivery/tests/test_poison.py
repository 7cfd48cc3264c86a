"""One key whose messages fail again and again, among other keys whose messages succeed."""

import statistics
import threading
import time
from collections.abc import Callable

import pytest
from delivery_harness import Broker, Handled, connected, consuming, eventually, publish

from mqtt_delivery import Message

DEVICES = 20
READINGS = 240
INTERVAL_SECONDS = 1 / 40


def fails(message: Message) -> None:
    if "/poison" in message.topic:
        raise RuntimeError("500")


def fails_slowly(message: Message) -> None:
    if "/poison" in message.topic:
        threading.Event().wait(1.5)  # as long as a time-out takes
        raise RuntimeError("timed out")


def p99(
    broker: Broker, topic: str, does: Callable[[Message], object], poison: bool, count: int = READINGS
) -> tuple[float, int, int]:
    """The p99 age of the readings of twenty devices at 2/s; the number of dead letters; of poisonous readings."""
    ages: list[float] = []

    def handle(message: Message) -> None:
        does(message)
        ages.append(time.time() - float(message.payload))

    handled = Handled(handle)
    sent = 0
    with (
        consuming(broker, f"{topic}/+", handled, receive_maximum=100),
        connected(broker, f"dead-letter/{topic}/+") as (client, dead),
    ):
        started = time.monotonic()
        for number in range(count):
            client.publish(f"{topic}/{number % DEVICES}", str(time.time()), qos=1)
            if poison and number % DEVICES == 0:
                client.publish(f"{topic}/poison", b"0", qos=1)
                sent += 1
            threading.Event().wait(max(0.0, started + number * INTERVAL_SECONDS - time.monotonic()))
        eventually(lambda: len(ages) == count)
    return statistics.quantiles(ages, n=100)[-1], len(dead), sent


@pytest.mark.stack
@pytest.mark.parametrize("does", [fails, fails_slowly])
def test_a_key_that_fails_does_not_delay_the_others(
    broker: Broker, topic: str, does: Callable[[Message], object]
) -> None:
    without, *_ = p99(broker, f"{topic}/without", does, poison=False)
    with_it, dead, sent = p99(broker, f"{topic}/with", does, poison=True)
    print(f"p99 without {without * 1000:.1f} ms, with {with_it * 1000:.1f} ms; {dead} of {sent} in the dead letters")
    # A busy machine is late without the failing key, too.
    assert with_it < without + 2.0
    assert 0 < dead <= sent


def test_an_outage_of_everything_makes_no_dead_letters(broker: Broker, topic: str) -> None:
    back = threading.Event()

    def does(message: Message) -> None:
        if not back.is_set():
            raise ConnectionError("away")

    handled = Handled(does)
    with (
        consuming(broker, f"{topic}/+", handled, receive_maximum=20),
        connected(broker, f"dead-letter/{topic}/+") as (client, dead),
    ):
        # Some succeed before the others begin to fail, so that the outage begins in the middle of a window.
        back.set()
        publish(client, f"{topic}/first", b"0")
        eventually(lambda: len(handled.messages) == 1)
        back.clear()
        for number in range(60):
            publish(client, f"{topic}/{number % 15}", b"%d" % number)
        eventually(lambda: len(handled.begun) > 60)
        threading.Event().wait(3)  # the outage: longer than a key may hold up others
        back.set()
        eventually(lambda: len(handled.messages) == 61)
        assert not dead
