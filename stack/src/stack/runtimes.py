"""The two runtimes, and which of them a command is for."""

from stack.console import console
from stack.docker import DockerRuntime, engine_answers
from stack.errors import StackError
from stack.local import LocalRuntime
from stack.settings import Settings

Runtime = LocalRuntime | DockerRuntime


def choose_runtime(settings: Settings) -> Runtime:
    """The runtime that was asked for, else Docker where an engine answers; says which, where it was not asked."""
    if settings.runtime is None:
        found = engine_answers()
        reason = "a Docker engine answers" if found else "no Docker engine answers"
        console.print(f"Runtime: {'docker' if found else 'local'} ({reason}; RUNTIME=docker or RUNTIME=local decides).")
        return DockerRuntime(settings) if found else LocalRuntime(settings)
    return DockerRuntime(settings) if settings.runtime == "docker" else LocalRuntime(settings)


def running_runtime(settings: Settings) -> Runtime:
    """The runtime that this stack runs in at the moment.

    Raises:
        StackError: If it does not run.
    """
    candidates: list[Runtime] = [LocalRuntime(settings), DockerRuntime(settings)]
    for runtime in candidates:
        if settings.runtime in (None, runtime.name) and runtime.running():
            return runtime
    raise StackError("the stack is not up; start it with `make up`")
