"""The consumer beside what people use today: the same readings, the same Mosquitto, the same echo, everything traced.

- *plain loop*: the sample of the guide: paho, a span by hand, `requests.post` in `on_message`;
- *FastStream*: its MQTT broker with its OpenTelemetry middleware, as many workers as the consumer;
- *aiomqtt*: with our instrumentation, as many tasks;
- *consumer*: this stack's, at its default settings.

Rate and CPU: readings that wait at the broker, and an echo without tracing. Latency: from `publish()` to the request's
arrival in echo, which is traced. Memory: after that.
"""

import statistics
from functools import partial
from pathlib import Path

from benchmarks.consumer import OFF, Run, run
from benchmarks.latency import arriving, at_rate
from benchmarks.readings import publish
from benchmarks.result import Result, Table, Target, alternating, median_ratio
from benchmarks.stacks import program, resident_mib, running_stack_without_clients, serving_echo
from harness import Stack, eventually

PROGRAMS = {
    "plain loop": "guide_loop",
    "FastStream": "with_faststream",
    "aiomqtt": "with_aiomqtt",
    "consumer": "real_consumer",
}
READINGS, ROUNDS = 3000, 3
RATE = 100


def benchmark() -> Result:
    """Measures all of them in turns, on one stack."""
    with running_stack_without_clients() as stack:
        parts = {name: stack.pid(name) for name in ("mosquitto", "collector")}
        with serving_echo(stack, "echo", **OFF) as (url, pid):
            one = partial(run, stack, readings=READINGS, parts=parts | {"echo": pid}, ECHO_URL=url)
            found = alternating({name: partial(one, program) for name, program in PROGRAMS.items()}, ROUNDS)
        paced = {name: at_an_even_pace(stack, program) for name, program in PROGRAMS.items()}
    rates = {name: [one.rate for one in outcomes] for name, outcomes in found.items()}
    rows = [[name, *figures(found[name], rates["plain loop"]), *paced[name]] for name in PROGRAMS]
    latency = [f"p{percent} ms at {RATE}/s" for percent in (50, 95, 99)]
    columns = ["", "readings/s", "÷ plain loop", "CPU µs per reading", *latency, "memory MiB"]
    title = f"{READINGS} readings, median of {ROUNDS}; WORKERS at its default"
    target = Target("consumer ÷ plain loop", 2.0, median_ratio(rates["consumer"], rates["plain loop"]))
    return Result([Table(title, columns, rows)], [target])


def figures(outcomes: list[Run], reference: list[float]) -> list[float]:
    """Rate, its ratio to another, and CPU."""
    rates = [one.rate for one in outcomes]
    return [statistics.median(rates), median_ratio(rates, reference), statistics.median(one.cpu for one in outcomes)]


def at_an_even_pace(stack: Stack, name: str) -> list[float]:
    """Percentiles of the latency in milliseconds, then the memory."""
    with (
        arriving(stack) as (url, arrivals),
        program(stack, "consumer", f"benchmarks.programs.{name}", ECHO_URL=url, READINGS="1000000") as process,
    ):
        eventually(partial(takes_readings, stack, arrivals))
        _, *milliseconds = at_rate(stack, RATE, arrivals)
        return [*(float(one) for one in milliseconds), resident_mib(process.pid)]


def takes_readings(stack: Stack, arrivals: Path) -> bool:
    """Publishes a reading; tells whether one has arrived at echo, so that the program is subscribed."""
    publish(stack, 1)
    return bool(arrivals.read_text())
