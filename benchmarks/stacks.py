"""Stacks of their own for the benchmarks, as the tests have them, and their parts as programs to be measured."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from recorder import recording

from harness import Stack, eventually, free_ports
from stack.part import local_url

ONE_CORE = ("taskset", "--cpu-list", "0")
PRODUCER_STILL = {"DEVICES": "1", "INTERVAL_SECONDS": "86400"}


@contextmanager
def running_stack(**values: str) -> Iterator[Stack]:
    """A whole stack on free ports, with the viewer."""
    stack = Stack(Path(tempfile.mkdtemp(prefix="mqtt-tracing-bench-")), **values)
    try:
        stack.up()
        yield stack
    finally:
        stack.runtime.down()
        shutil.rmtree(stack.settings.run_dir)


@contextmanager
def running_stack_with_remote_scout(**values: str) -> Iterator[Stack]:
    """A stack whose Collector sends to a Scout elsewhere, so that no backend runs beside it."""
    with recording() as scout:
        scout.take = lambda path, body: None
        with running_stack(**scout.scout_values, **values) as stack:
            yield stack


@contextmanager
def running_stack_without_clients() -> Iterator[Stack]:
    """The same without a consumer and a producer, which the programs to be measured take the place of."""
    with running_stack_with_remote_scout(**PRODUCER_STILL) as stack:
        for part in ("consumer", "producer"):
            stack.stop_part(part)
        yield stack


def environment(stack: Stack, part: str, **changed: str) -> dict[str, str]:
    """The environment of a part of the stack, with changes."""
    return {**stack.runtime.environment(part), "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **changed}


def measure(program: str, variables: dict[str, str], log: Path, one_core: bool = False) -> dict[str, Any]:
    """Runs one of the programs in ``programs/``, on one core if asked to; returns its measurement."""
    command = [*(ONE_CORE if one_core else []), sys.executable, "-m", f"benchmarks.programs.{program}"]
    with log.open("a") as errors:
        done = subprocess.run(
            command, env=variables, stdout=subprocess.PIPE, stderr=errors, text=True, timeout=120, check=True
        )
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def serving_echo(stack: Stack, module: str, **changed: str) -> Iterator[tuple[str, int]]:
    """Runs a second echo; yields its URL and process id."""
    (port,) = free_ports(1)
    variables = environment(stack, "echo", ECHO_PORT=str(port), **changed)
    with subprocess.Popen([sys.executable, "-m", module], env=variables) as process:
        try:
            eventually(lambda: listens(port))
            yield local_url(port, "/echo"), process.pid
        finally:
            process.terminate()


def listens(port: int) -> bool:
    """Tells whether something listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def cpu_seconds(pid: int) -> float:
    """The CPU time that a process has used."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


@contextmanager
def program(
    stack: Stack, part: str, module: str, output: Path = Path(os.devnull), **changed: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a program with the variables of a part during the block; its output goes to a file."""
    command = [sys.executable, "-m", module]
    log = stack.settings.run_dir / "logs" / f"{module}.log"
    with (
        output.open("ab") as out,
        log.open("ab") as errors,
        subprocess.Popen(command, env=environment(stack, part, **changed), stdout=out, stderr=errors) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()


def resident_mib(pid: int) -> float:
    """The resident memory of a process, in MiB."""
    return psutil.Process(pid).memory_info().rss / 2**20
