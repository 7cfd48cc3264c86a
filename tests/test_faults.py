"""If one thing breaks, the others keep working."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness import Stack, eventually, throughout
from stack.part import beats


def published(stack: Stack) -> int:
    """The number of published readings that the producer logs when it stops."""
    return sum(map(int, re.findall(r"stopping after (\d+) readings", stack.runtime.log_text("producer"))))


# Three times the lifetime of a token.
@pytest.mark.parametrize("seconds", [6, pytest.param(30, marks=pytest.mark.long)])
def test_nothing_is_lost_while_the_issuer_is_away(new_stack: Callable[..., Stack], seconds: float) -> None:
    # Tokens are valid for seconds, so that the Collector needs the issuer all the time.
    stack = new_stack(ISSUER_TOKEN_SECONDS="2", INTERVAL_SECONDS="0.5")
    since = time.time_ns()
    stack.up()
    stack.stop_part("issuer")

    def services() -> set[str]:
        return {state for name, state, _ in stack.runtime.states() if name in ("producer", "consumer", "echo")}

    # The services notice nothing.
    throughout(seconds, lambda: services() == {"healthy"})
    eventually(lambda: "oauth2" in stack.runtime.log_text("collector"))
    arrived = stack.whole_traces(since)
    stack.start_part("issuer")
    eventually(lambda: stack.whole_traces(since) > arrived)
    stack.stop_part("producer")
    sent = published(stack)
    assert sent > 6 * seconds
    eventually(lambda: stack.whole_traces(since) >= sent, seconds=60)
    assert stack.whole_traces(since) == sent
    stack.runtime.down()


@pytest.mark.alone
@pytest.mark.parametrize("part", ["producer", "consumer", "echo"])
def test_a_service_that_is_told_to_stop_flushes_and_exits_with_0_within_5_seconds(
    new_stack: Callable[..., Stack], part: str
) -> None:
    stack = new_stack(INTERVAL_SECONDS="0.1", OTEL_BSP_SCHEDULE_DELAY="60000")
    since = time.time_ns()
    stack.up()
    # With a minute between exports, the backend gets from this part only what its shutdown flushed.
    kind = {"producer": "Producer", "consumer": "Consumer", "echo": "Server"}[part]
    eventually(lambda: stack.runtime.log_text("consumer").count("processed reading") > 20)
    pid = stack.pid(part)
    # Only supervisor sees the exit code; it restarts the part.
    with stack.runtime.supervisor.connected() as supervisor:
        started = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: supervisor.getProcessInfo(part)["pid"] != pid)
        assert time.monotonic() - started < 5
    log = eventually(lambda: exit_line(stack, part))
    assert "exit status 0" in log, log

    def spans() -> int:
        ids = stack.viewer.trace_ids(since, time.time_ns())
        return sum(span.kind == kind for trace_id in ids for span in stack.viewer.trace(trace_id))

    eventually(lambda: spans() > 20)
    stack.runtime.down()


def exit_line(stack: Stack, part: str) -> str:
    log = (stack.settings.run_dir / "supervisord.log").read_text()
    return next((line for line in log.splitlines() if f"exited: {part} " in line), "")


@pytest.mark.alone
@pytest.mark.parametrize("part", ["producer", "consumer", "echo"])
def test_a_service_stops_in_time_while_the_collector_hangs(new_stack: Callable[..., Stack], part: str) -> None:
    stack = new_stack(INTERVAL_SECONDS="0.1")
    stack.up()
    collector = stack.pid("collector")
    os.kill(collector, signal.SIGSTOP)  # accepts connections, never answers
    try:
        count = stack.runtime.log_text("consumer").count("processed reading")
        eventually(lambda: stack.runtime.log_text("consumer").count("processed reading") > count + 30)
        started = time.monotonic()
        stack.stop_part(part)
        assert time.monotonic() - started < 5
    finally:
        os.kill(collector, signal.SIGCONT)
    stack.runtime.down()


def test_the_services_start_without_collector_and_broker_and_wait_for_them(new_stack: Callable[..., Stack]) -> None:
    stack = new_stack(INTERVAL_SECONDS="0.1")
    stack.up()
    for part in ("producer", "consumer", "mosquitto", "collector"):
        stack.stop_part(part)
    for part in ("producer", "consumer"):
        stack.start_part(part)
    assert {state for name, state, _ in stack.runtime.states() if name in ("producer", "consumer")} <= {
        "unhealthy",
        "healthy",
    }
    for part in ("mosquitto", "collector"):
        stack.start_part(part)
    eventually(lambda: stack.run("verify").returncode == 0, seconds=60)
    stack.runtime.down()


@contextmanager
def broken_service(
    stack: Stack, name: str, breakage: str, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process of a service that a line of Python has broken, and its heartbeat."""
    described = json.loads((stack.settings.run_dir / "parts" / f"{name}.json").read_text())
    heartbeat = stack.settings.run_dir / f"broken-{name}.healthy"
    heartbeat.unlink(missing_ok=True)
    program = f"import time; {breakage}; from {name}.__main__ import main; raise SystemExit(main())"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={**described["environment"], "HEALTH_FILE": str(heartbeat), **environment},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process, heartbeat
        finally:
            process.kill()


ANOTHER_CONSUMER = {"MQTT_CLIENT_ID": "consumer-9", "MQTT_CONSUMER_USERNAME": "consumer-9", "SHARE_NAME": "broken"}


def test_a_consumer_whose_network_thread_hangs_is_not_healthy_and_then_ends(stack: Stack) -> None:
    # The stack's producer publishes, so the first reading breaks it.
    breakage = "from mqtt_delivery.session import Session; Session._on_message = lambda *_: time.sleep(3600)"
    with broken_service(stack, "consumer", breakage, **ANOTHER_CONSUMER) as (process, heartbeat):
        eventually(beats(heartbeat))
        eventually(lambda: not beats(heartbeat)(), 40)
        assert process.poll() is None, "it ended before it was unhealthy"
        _, log = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "stopping: " in log


def test_a_consumer_whose_network_thread_dies_ends(stack: Stack) -> None:
    breakage = "from mqtt_delivery.session import Session; Session._on_message = lambda *_: 1 / 0"
    with broken_service(stack, "consumer", breakage, **ANOTHER_CONSUMER) as (process, _):
        _, log = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "a thread died, stopping" in log
    assert "ZeroDivisionError" in log


def test_a_producer_whose_network_thread_hangs_is_not_healthy(new_stack: Callable[..., Stack]) -> None:
    stack = new_stack(INTERVAL_SECONDS="0.5")
    stack.up()
    stack.stop_part("producer")  # it has the same client id
    breakage = "from mqtt_delivery import Publisher; Publisher._on_publish = lambda *_: time.sleep(3600)"
    with broken_service(stack, "producer", breakage) as (process, heartbeat):
        eventually(beats(heartbeat))
        eventually(lambda: not beats(heartbeat)(), 60)
        assert process.poll() is None
    stack.runtime.down()
