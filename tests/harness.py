"""Runs stacks for the tests: the real parts, on free ports, each stack in its own folder."""

import fcntl
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import pytest

from stack.contract import first_break
from stack.local import LocalRuntime, port_is_free
from stack.settings import ROOT, Settings
from stack.trace import Span, roots
from stack.viewer import Viewer

Result = TypeVar("Result")


def files_of_the_project(pattern: str) -> list[Path]:
    """The files that git tracks or would add, without installed or built ones such as ``node_modules``.

    Args:
        pattern: A git path pattern: ``*.md`` matches in any folder.
    """
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", pattern]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return sorted(path for name in done.stdout.splitlines() if (path := ROOT / name).exists())


def eventually(look: Callable[[], Result], seconds: float = 30.0) -> Result:
    """Calls ``look`` until its result is true, and returns it; on a time-out fails with the last result."""
    deadline = time.monotonic() + seconds
    pause = 0.02
    while not (seen := look()):
        if time.monotonic() > deadline:
            pytest.fail(f"not seen within {seconds} s; last: {seen!r}")
        time.sleep(pause)
        # Each look costs time, mostly in the viewer, so the pauses between looks grow.
        pause = min(0.5, pause * 1.5)
    return seen


def throughout(seconds: float, holds: Callable[[], bool]) -> None:
    """Checks repeatedly, for as long as an outage lasts, that something holds."""
    ended = time.monotonic() + seconds
    while time.monotonic() < ended:
        assert holds()
        time.sleep(min(0.5, max(0.0, ended - time.monotonic())))


# Below the system's ephemeral ports, and apart from the stack's default ports.
PORTS = range(26_000, 32_000)
PORTS_OF_A_PROCESS = 250


@cache
def _own_ports() -> Iterator[int]:
    """Yields ports that no other test process uses, in a cycle; a process owns the range that it has locked."""
    for first in PORTS[::PORTS_OF_A_PROCESS]:
        lock = os.open(Path(tempfile.gettempdir(), f"mqtt-tracing-ports-{first}"), os.O_CREAT | os.O_WRONLY)
        try:
            # The lock lasts as long as this process.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
        else:
            return itertools.cycle(range(first, first + PORTS_OF_A_PROCESS))
    raise RuntimeError("so many test processes run that no ports are left")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on and no other test process uses."""
    free = (port for port in itertools.islice(_own_ports(), PORTS_OF_A_PROCESS) if port_is_free(port))
    return list(itertools.islice(free, count))


def reading(**changed: object) -> dict[str, object]:
    """A reading that echo accepts."""
    return {
        "message_id": str(uuid4()),
        "device_id": "sensor-001",
        "sequence": 1,
        "timestamp": "2026-01-01T00:00:00Z",
        "temperature_c": 20.5,
        "humidity_pct": 40.1,
        **changed,
    }


def is_whole(spans: list[Span]) -> bool:
    """Tells whether a trace, with the spans so far, meets the telemetry contract for a reading."""
    root = roots(spans)[0].attributes
    return not first_break(spans, str(root.get("messaging.destination.name")), str(root.get("messaging.message.id")))


class Stack:
    """A stack under test, driven by the commands that a user types."""

    # What Python runs for a command.
    program = ("-m", "stack")

    def __init__(self, folder: Path, **values: str) -> None:
        names = [name.upper() for name in Settings.model_fields if name.endswith("_port")]
        self.values = {name: str(port) for name, port in zip(names, free_ports(len(names)), strict=True)}
        # The specification's export interval: up to nine stacks run at a time, and that is load enough.
        self.values |= {"RUN_DIR": str(folder), "RUNTIME": "local", "OTEL_METRIC_EXPORT_INTERVAL": "60000", **values}
        # Ignores the settings of this machine's user for their own stack.
        foreign = {name.upper() for name in Settings.model_fields}
        self.environment = {name: value for name, value in os.environ.items() if name not in foreign} | self.values
        self.settings = Settings(_env_file=None, **{name.lower(): value for name, value in self.values.items()})  # pyright: ignore[reportCallIssue] (pydantic-settings parses them)
        self.runtime = LocalRuntime(self.settings)
        self.viewer = Viewer(self.settings.viewer_port)
        self._whole: set[str] = set()

    def run(self, *arguments: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """Runs a command of the stack, as ``make`` does."""
        return subprocess.run(
            [sys.executable, *self.program, *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def up(self) -> None:
        """Starts it; fails the test if it does not start."""
        done = self.run("up")
        assert done.returncode == 0, done.stdout + done.stderr

    def stop_part(self, name: str) -> None:
        """Stops one part as an ordinary deploy does, and waits for it."""
        self.runtime.stop(name)

    def start_part(self, name: str) -> None:
        """Starts a part again."""
        with self.runtime.supervisor.connected() as supervisor:
            supervisor.startProcess(name)

    def pid(self, name: str) -> int:
        """The process id of a part."""
        with self.runtime.supervisor.connected() as supervisor:
            return supervisor.getProcessInfo(name)["pid"]

    def spans_of(self, attribute: str, value: str, count: int, since: int) -> list[Span]:
        """Waits until the backend holds at least ``count`` spans in traces that have a span with this attribute."""

        def look() -> list[Span]:
            ids = self.viewer.trace_ids(since, time.time_ns(), (attribute, value))
            spans = [span for trace_id in ids for span in self.viewer.trace(trace_id)]
            return spans if len(spans) >= count else []

        return eventually(look)

    def whole_traces(self, since: int) -> int:
        """The number of readings that have one whole trace each in the backend."""
        counts = self.viewer.span_counts(since, time.time_ns())
        # Publish, process, POST and POST /echo. A trace that is whole stays whole.
        unknown = [name for name, count in counts.items() if count >= 4 and name not in self._whole]
        self._whole |= {name for name in unknown if is_whole(self.viewer.trace(name))}
        return len(self._whole & counts.keys())

    def publish_with_mosquitto_pub(self, topic: str, payload: str, *options: str) -> None:
        """Publishes with Mosquitto's own client, as a foreign client would."""
        settings = self.settings
        login = ["-u", settings.mqtt_operator_username, "-P", settings.mqtt_operator_password.get_secret_value()]
        command = ["mosquitto_pub", "-p", str(settings.mqtt_port), *login, "-q", "1", "-t", topic, "-m", payload]
        subprocess.run([*command, *options], check=True, timeout=20)

    def publish_in_foreign_trace(self, device_id: str) -> tuple[str, str, str]:
        """Publishes a reading as a foreign client with tracing; returns its message id, trace id and span id."""
        sent = reading(device_id=device_id)
        trace_id, span_id = f"{uuid4().int:032x}", f"{uuid4().int >> 64:016x}"
        options = ["-D", "publish", "user-property", "traceparent", f"00-{trace_id}-{span_id}-01"]
        self.publish_with_mosquitto_pub(f"sensors/{device_id}/reading", json.dumps(sent), "-V", "mqttv5", *options)
        return str(sent["message_id"]), trace_id, span_id


@contextmanager
def mosquitto(folder: Path, *lines: str) -> Iterator[Path]:
    """Runs a broker outside any stack, with these lines of configuration; yields its log."""
    log, configuration = folder / "log", folder / "mosquitto.conf"
    configuration.write_text("\n".join(["user root", "log_dest stderr", *lines, ""]))
    with log.open("wb") as output, subprocess.Popen(["mosquitto", "-c", str(configuration)], stderr=output) as process:
        try:
            eventually(lambda: " running" in log.read_text() or process.poll() is not None)
            assert process.poll() is None, log.read_text()
            yield log
        finally:
            process.terminate()


@contextmanager
def stopped(stack: Stack, part: str) -> Iterator[None]:
    """Stops one part of the stack during the block."""
    stack.stop_part(part)
    yield
    stack.start_part(part)
    assert stack.run("up").returncode == 0
