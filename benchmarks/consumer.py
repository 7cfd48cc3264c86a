"""How many readings a second the consumer takes from a real Mosquitto to a real echo and acknowledges.

The readings wait at the broker, in the consumer's session, before the consumer starts; the time runs from its first
acknowledgement to its last. The Collector sends to a Scout elsewhere. Compared are, in turns:

- *tracing on*: the consumer as it is; *off*: the same with `OTEL_SDK_DISABLED=true`. Echo, untraced, is the same;
- *all traced*: echo as well, on the same cores;
- *plain loop*: the same work from the network thread, one reading at a time, with no tracing;
- *straight*: `requests` to the same echo without MQTT, as many threads and sessions as there are workers: the limit;
- *instructions*: what a worker's Python executes for a reading, counted; on a busy machine the same as on an idle one;
- *one core*: the same under `taskset`. Python's threads take turns anyway, and on one core they do it at a lower price.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks.readings import queue_up
from benchmarks.result import Result, Table, Target, alternating, median_ratio
from benchmarks.stacks import (
    cpu_seconds,
    environment,
    measure,
    running_stack_without_clients,
    serving_echo,
)
from consumer.settings import Settings
from harness import Stack
from stack.part import local_url

WORKERS = (1, 2, 4, 8)
SLOW_WORKERS = (8, 16, 32)
READINGS, ROUNDS = 5000, 3
SWEEP_READINGS, SWEEP_ROUNDS = 1000, 2
SLOW_READINGS, SLOW_SECONDS = 1000, 0.02
CONSUMER = ("tracing off", "tracing on")
OFF = {"OTEL_SDK_DISABLED": "true"}
EXPORTERS = ("OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_LOGS_EXPORTER")


@dataclass(frozen=True)
class Run:
    """The result of one run: readings per second, and CPU time in µs per reading of the program and the other parts."""

    rate: float
    cpu: float
    around: dict[str, float]


def run(
    stack: Stack, program: str, readings: int, parts: dict[str, int], one_core: bool = False, **variables: str
) -> Run:
    """Runs a program of ``programs/``; ``parts`` are the process ids of the other parts."""
    if program != "straight_to_echo":
        queue_up(stack, readings)
    before = {name: cpu_seconds(pid) for name, pid in parts.items()}
    log = stack.settings.run_dir / "logs" / f"{program}.log"
    found = measure(program, environment(stack, "consumer", READINGS=str(readings), **variables), log, one_core)
    around = {name: (cpu_seconds(pid) - before[name]) / readings * 1e6 for name, pid in parts.items()}
    return Run((readings - 1) / found["seconds"], found["cpu_seconds"] / readings * 1e6, around)


def benchmark() -> Result:
    """Compares at the default number of workers, then at others and with a slow echo."""
    with running_stack_without_clients() as stack:
        parts = {name: stack.pid(name) for name in ("mosquitto", "collector")}
        with serving_echo(stack, "echo", **OFF) as (url, pid):
            programs = variants(stack, parts | {"echo": pid}, ECHO_URL=url)
            sweep = by_workers(programs)
            counted = instructions(stack, ECHO_URL=url)
            traced_echo = partial(
                run,
                stack,
                "real_consumer",
                parts=parts | {"echo": stack.pid("echo")},
                ECHO_URL=local_url(stack.settings.echo_port, "/echo"),
            )
            one_core = {f"{name}, one core": partial(programs[name], one_core=True) for name in ("straight", *CONSUMER)}
            compared, targets = compare(programs | {"all traced": traced_echo} | one_core)
        with serving_echo(stack, "benchmarks.programs.slow_echo", SECONDS=str(SLOW_SECONDS)) as (url, pid):
            slow, slow_target = with_slow_echo(variants(stack, parts | {"echo": pid}, ECHO_URL=url))
    return Result([compared, counted, sweep, slow], [*targets, slow_target])


def variants(stack: Stack, parts: dict[str, int], **variables: str) -> dict[str, Callable[..., Run]]:
    """The programs to compare, by name."""
    one = partial(run, stack, parts=parts, **variables)
    return {
        "straight": partial(one, "straight_to_echo"),
        "tracing off": partial(one, "real_consumer", **OFF),
        "tracing on": partial(one, "real_consumer"),
        "plain loop": partial(one, "plain_loop", **OFF),
    }


def by_workers(programs: dict[str, Callable[..., Run]]) -> Table:
    """The rate at each number of workers."""
    names = ("straight", *CONSUMER)
    runs = {
        (workers, name): partial(programs[name], readings=SWEEP_READINGS, WORKERS=str(workers))
        for workers in WORKERS
        for name in names
    }
    found = alternating(runs, SWEEP_ROUNDS)
    rates = {key: statistics.median(one.rate for one in outcomes) for key, outcomes in found.items()}
    rows = [[str(workers), *(rates[workers, name] for name in names)] for workers in WORKERS]
    title = f"Readings a second by WORKERS ({SWEEP_READINGS} readings, median of {SWEEP_ROUNDS})"
    return Table(title, ["WORKERS", *names], rows)


def compare(programs: dict[str, Callable[..., Run]]) -> tuple[Table, list[Target]]:
    """Compares all programs with the default number of workers."""
    workers = Settings.model_fields["workers"].default
    runs = {name: partial(one, readings=READINGS, WORKERS=str(workers)) for name, one in programs.items()}
    found = alternating(runs, ROUNDS)
    rates = {name: [one.rate for one in outcomes] for name, outcomes in found.items()}
    parts = list(found["straight"][0].around)
    rows = [
        [
            name,
            statistics.median(rates[name]),
            median_ratio(rates[name], rates["straight"]),
            median_ratio(rates[name], rates["tracing off"]),
            statistics.median(one.cpu for one in outcomes),
            *(statistics.median(one.around[part] for one in outcomes) for part in parts),
        ]
        for name, outcomes in found.items()
    ]
    title = f"{READINGS} readings, WORKERS={workers}, median of {ROUNDS}"
    columns = ["", "readings/s", "÷ straight", "÷ tracing off", "CPU µs per reading"]
    table = Table(title, [*columns, *(f"CPU µs of {part}" for part in parts)], rows)
    return table, [
        Target("consumer, tracing off ÷ straight", 0.9, median_ratio(rates["tracing off"], rates["straight"])),
        Target("consumer, tracing on ÷ off", 0.85, median_ratio(rates["tracing on"], rates["tracing off"])),
    ]


def instructions(stack: Stack, **variables: str) -> Table:
    """Counts instructions, which do not depend on the load of the machine."""
    log = stack.settings.run_dir / "logs" / "reading_cost.log"
    kinds: dict[str, dict[str, str]] = {
        "tracing off": OFF,
        "tracing on, nothing exported": dict.fromkeys(EXPORTERS, "none"),
        "tracing on": {},
    }
    rows: list[list[str | float]] = [
        [kind, measure("reading_cost", environment(stack, "consumer", **variables, **more), log)["instructions"]]
        for kind, more in kinds.items()
    ]
    return Table("Bytecode instructions of a worker for a reading", ["", "instructions"], rows)


def with_slow_echo(programs: dict[str, Callable[..., Run]]) -> tuple[Table, Target]:
    """Measures with a slow echo: while one request waits, the consumer works on other readings; the loop cannot."""
    names = ("straight", *CONSUMER)
    runs = {
        (workers, name): partial(programs[name], readings=SLOW_READINGS, WORKERS=str(workers))
        for workers in SLOW_WORKERS
        for name in names
    }
    found = {key: one.rate for key, (one,) in alternating(runs, 1).items()}
    plain = programs["plain loop"](readings=SLOW_READINGS // 4).rate
    rows = [[str(workers), *(found[workers, name] for name in names), plain] for workers in SLOW_WORKERS]
    best = max(found[workers, "tracing on"] for workers in SLOW_WORKERS)
    title = f"Readings a second with echo answering in {SLOW_SECONDS * 1000:.0f} ms ({SLOW_READINGS} readings)"
    return (
        Table(title, ["WORKERS", *names, "plain loop"], rows),
        Target("consumer, tracing on ÷ plain loop, echo answering in 20 ms", 5.0, best / plain),
    )
