"""Measures what a busy machine does not distort, so that a reading does not become much more expensive unnoticed."""

from collections.abc import Callable

import pytest

from benchmarks.consumer import EXPORTERS
from benchmarks.stacks import environment, measure, serving_echo
from harness import Stack


# Measured: 28,800 and 35,600 with Python 3.11, of which the bare request has 18,500.
# Looking up proxies and certificates in the environment for each request adds 4,900.
@pytest.mark.alone
@pytest.mark.parametrize(("disabled", "most_instructions"), [("true", 33_000), ("false", 40_000)])
def test_a_worker_of_the_consumer_spends_little_on_a_reading(
    new_stack: Callable[..., Stack], disabled: str, most_instructions: int
) -> None:
    stack = new_stack()
    log = stack.settings.run_dir / "consumer.log"
    # Other threads encode the exports.
    variables = {**dict.fromkeys(EXPORTERS, "none"), "OTEL_SDK_DISABLED": disabled}
    with serving_echo(stack, "echo", OTEL_SDK_DISABLED="true") as (url, _):
        found = measure("reading_cost", environment(stack, "consumer", ECHO_URL=url, **variables), log)
    assert 18_000 < found["instructions"] <= most_instructions


def test_an_echo_of_a_benchmark_that_fails_ends(new_stack: Callable[..., Stack]) -> None:
    with pytest.raises(ZeroDivisionError), serving_echo(new_stack(), "echo", OTEL_SDK_DISABLED="true"):
        raise ZeroDivisionError
