"""How long a reading takes to echo, and its trace to the viewer.

The whole stack with the viewer on the same cores, everything traced; readings are published with a trace context at an
even pace. *Publish to echo*: from the call of `publish()` to the request's arrival in echo. *Publish to visible*: until
the viewer holds the spans of consumer and echo, asked every 10 ms, one reading at a time.
"""

import json
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.readings import connected, numbered_reading, traced_properties
from benchmarks.result import Result, Table, percentile
from benchmarks.stacks import PRODUCER_STILL, program, running_stack
from harness import Stack, eventually, free_ports
from stack.part import answers, local_url

RATES, SECONDS = (10, 100, 300), 12
SEEN = 30


def benchmark() -> Result:
    """Publishes at each rate, then single readings."""
    with running_stack(**PRODUCER_STILL) as stack:
        for part in ("consumer", "producer"):
            stack.stop_part(part)
        with arriving(stack) as (url, arrivals), consuming(stack, url):
            rows = [at_rate(stack, rate, arrivals) for rate in RATES]
            seen = [milliseconds_to_viewer(stack) for _ in range(SEEN)]
    columns = ["readings/s", "p50", "p95", "p99"]
    visible = ["one at a time", *(percentile(seen, percent) for percent in (50, 95, 99))]
    return Result(
        [
            Table(f"Publish to echo, ms (each rate for {SECONDS} s)", columns, rows),
            Table(f"Publish to visible in the viewer, ms ({SEEN} readings)", columns, [visible]),
        ]
    )


@contextmanager
def arriving(stack: Stack) -> Iterator[tuple[str, Path]]:
    """Runs an echo that notes arrivals; yields its URL and the file that it writes."""
    (port,) = free_ports(1)
    arrivals = Path(tempfile.mkstemp(dir=stack.settings.run_dir)[1])
    with program(stack, "echo", "benchmarks.programs.noting_echo", arrivals, ECHO_PORT=str(port)):
        eventually(lambda: answers(local_url(port, "/healthz"))())
        yield local_url(port, "/echo"), arrivals


@contextmanager
def consuming(stack: Stack, url: str) -> Iterator[None]:
    """Runs the consumer."""
    beat = stack.settings.run_dir / "consumer.healthy"
    beat.unlink(missing_ok=True)
    with program(stack, "consumer", "consumer", ECHO_URL=url):
        eventually(beat.exists)
        yield


def at_rate(stack: Stack, rate: int, arrivals: Path) -> list[str | float]:
    """Publishes at an even pace; returns percentiles of the milliseconds to echo."""
    sent: dict[str, int] = {}
    with connected(stack, "operator") as client:
        due = time.monotonic()
        for number in range(rate * SECONDS):
            made = numbered_reading(number)
            payload, properties = json.dumps(made), traced_properties(made["device_id"])
            time.sleep(max(0.0, due - time.monotonic()))
            sent[str(made["message_id"])] = time.time_ns()
            client.publish(f"sensors/{made['device_id']}/reading", payload, 1, properties=properties)
            due += 1 / rate

        def arrived() -> dict[str, int]:
            lines = (line.split() for line in arrivals.read_text().splitlines())
            found = {identifier: int(at) for identifier, at in lines}
            return found if sent.keys() <= found.keys() else {}

        found = eventually(arrived)
    milliseconds = [(found[identifier] - at) / 1e6 for identifier, at in sent.items()]
    return [str(rate), *(percentile(milliseconds, percent) for percent in (50, 95, 99))]


def milliseconds_to_viewer(stack: Stack) -> float:
    """Publishes one reading and measures until its trace is in the viewer."""
    made = numbered_reading(0)
    trace_id = secrets.token_hex(16)
    properties = traced_properties(made["device_id"], trace_id)
    with connected(stack, "operator") as client:
        started = time.monotonic()
        client.publish(f"sensors/{made['device_id']}/reading", json.dumps(made), 1, properties=properties)
        while len(stack.viewer.trace(trace_id)) < 3:
            time.sleep(0.01)
        return (time.monotonic() - started) * 1000
