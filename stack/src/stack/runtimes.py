"""The runtimes, and the choice between them."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stack.console import console
from stack.docker import DockerRuntime, engine_answers
from stack.errors import StackError
from stack.kubernetes import KubernetesRuntime
from stack.local import LocalRuntime
from stack.runtime import Runtime
from stack.settings import Settings


def runtimes(settings: Settings) -> list[Runtime]:
    """All runtimes."""
    return [LocalRuntime(settings), DockerRuntime(settings), KubernetesRuntime(settings)]


def choose_runtime(settings: Settings) -> Runtime:
    """The runtime of RUNTIME, else the one in which this stack runs, else Docker if an engine answers.

    Prints which, if RUNTIME does not name one.
    """
    local, docker, kubernetes = runtimes(settings)
    if settings.runtime is not None:
        return {runtime.name: runtime for runtime in (local, docker, kubernetes)}[settings.runtime]
    if running := next((runtime for runtime in (local, kubernetes) if runtime.running()), None):
        chosen, reason = running, "the stack runs there"
    elif engine_answers():
        chosen, reason = docker, "a Docker engine answers"
    else:
        chosen, reason = local, "no Docker engine answers"
    console.print(f"Runtime: {chosen.name} ({reason}; RUNTIME=docker, local or kubernetes overrides this).")
    return chosen


def running_runtime(settings: Settings) -> Runtime:
    """The runtime in which this stack runs.

    Raises:
        StackError: If it does not run.
    """
    for runtime in runtimes(settings):
        if settings.runtime in (None, runtime.name) and runtime.running():
            return runtime
    raise StackError("the stack is not up; start it with `make up`")


@contextmanager
def reached_runtime(settings: Settings) -> Iterator[Runtime]:
    """The runtime in which this stack runs, for commands that connect to the parts.

    Raises:
        StackError: If it does not run, or the parts cannot be reached.
    """
    runtime = running_runtime(settings)
    with runtime.reached():
        yield runtime


@contextmanager
def alone(folder: Path, other: str = "Another command is starting or stopping this stack") -> Iterator[None]:
    """Holds a lock on a folder, so that no other command does the same there.

    Args:
        folder: A folder of the stack, which is created if it does not exist.
        other: Describes the command that holds the lock.

    Raises:
        StackError: If the folder cannot be created or written to.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError
    except OSError as error:
        reason = error.strerror or "this user may not write there"
        raise StackError(f"RUN_DIR is {folder}, a folder that cannot hold logs and state: {reason}") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print(f"{other}; waiting for it ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
