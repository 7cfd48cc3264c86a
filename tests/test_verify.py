"""``make verify`` names the first broken hop, and what to look at."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness import Stack, stopped
from stack.verify import publish


@pytest.fixture(scope="module")
def broken_stack(new_shared_stack: Callable[..., Stack]) -> Stack:
    stack = new_shared_stack()
    stack.up()
    return stack


@pytest.mark.parametrize(
    ("part", "hop", "hint"),
    [
        ("mosquitto", "broken at producer → Mosquitto: ", "make logs PART=mosquitto"),
        ("consumer", "broken at Mosquitto → consumer: expected the span process ", "make logs PART=consumer"),
        (
            "echo",
            "broken at consumer → HTTP: echo is stopped; the consumer keeps the reading until echo is healthy",
            "make logs PART=consumer",
        ),
        ("gateway", "broken at Collector → Scout: no span of the reading arrived", "verify the four SCOUT_* values"),
        ("collector", "error: the Collector does not answer at ", ""),
        ("viewer", "error: the viewer does not answer at ", ""),
    ],
)
def test_a_part_that_is_away_breaks_its_hop(broken_stack: Stack, part: str, hop: str, hint: str) -> None:
    with stopped(broken_stack, part):
        done = broken_stack.run("verify")
    assert done.returncode == 1
    assert done.stderr.startswith(hop), done.stderr
    assert hint in done.stderr
    # Other parts may be unhealthy because they need it.
    told = f"{part} is stopped: `make up` starts it, `make logs PART={part}` shows its log."
    assert told in done.stderr.splitlines()
    assert "Traceback" not in done.stderr


def test_once_everything_is_back_the_reading_gets_through(broken_stack: Stack) -> None:
    done = broken_stack.run("verify")
    assert done.returncode == 0, done.stdout + done.stderr


def test_several_at_once_take_over_nobody(broken_stack: Stack) -> None:
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda _: publish(broken_stack.runtime, broken_stack.settings), range(6)))
    assert "already connected" not in broken_stack.runtime.log_text("mosquitto")


def test_a_producer_without_user_properties_is_found_by_its_lost_context(broken_stack: Stack) -> None:
    # Without the W3C propagator, the message carries no traceparent, as with MQTT 3.1.1.
    broken_stack.run("down")
    broken_stack.environment["OTEL_PROPAGATORS"] = "baggage"
    broken_stack.up()
    done = broken_stack.run("verify")
    assert done.returncode == 1
    assert "broken at Mosquitto → consumer: the process span is the root of another trace" in done.stderr
    assert "protocol=MQTTv5" in done.stderr
