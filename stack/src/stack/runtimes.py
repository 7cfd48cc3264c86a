"""The two runtimes, and which of them a command is for."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stack.console import console
from stack.docker import DockerRuntime, engine_answers
from stack.errors import StackError
from stack.local import LocalRuntime
from stack.runtime import Runtime
from stack.settings import Settings


def runtimes(settings: Settings) -> list[Runtime]:
    """Both."""
    return [LocalRuntime(settings), DockerRuntime(settings)]


def choose_runtime(settings: Settings) -> Runtime:
    """The runtime that was asked for, else the one that this stack runs in, else Docker where an engine answers.

    Says which, where it was not asked.
    """
    local, docker = runtimes(settings)
    if settings.runtime is not None:
        return docker if settings.runtime == docker.name else local
    if local.running():
        chosen, reason = local, "the stack runs there"
    elif engine_answers():
        chosen, reason = docker, "a Docker engine answers"
    else:
        chosen, reason = local, "no Docker engine answers"
    console.print(f"Runtime: {chosen.name} ({reason}; RUNTIME=docker or RUNTIME=local decides).")
    return chosen


def running_runtime(settings: Settings) -> Runtime:
    """The runtime that this stack runs in at the moment.

    Raises:
        StackError: If it does not run.
    """
    for runtime in runtimes(settings):
        if settings.runtime in (None, runtime.name) and runtime.running():
            return runtime
    raise StackError("the stack is not up; start it with `make up`")


@contextmanager
def alone(folder: Path, other: str = "Another command starts or stops this stack") -> Iterator[None]:
    """Waits until no other command is at work on what has this folder.

    Args:
        folder: A folder of the stack's, which is made if it is not there.
        other: What the one that is waited for does.

    Raises:
        StackError: If the folder cannot be made, or not be written to.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError
    except OSError as error:
        reason = error.strerror or "this user may not write there"
        raise StackError(f"RUN_DIR is {folder}, where logs and state cannot be kept: {reason}") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print(f"{other}; waiting for its end ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
