"""The tool behind ``make``: starts, stops, checks and shows the stack."""

import argparse
import sys
from contextlib import suppress

from rich.table import Table

from service import load_settings
from stack import build
from stack.backends import backend_pages
from stack.console import console, exit_code
from stack.docker import DockerRuntime
from stack.doctor import doctor
from stack.errors import StackError
from stack.local import LocalRuntime
from stack.part import local_url
from stack.parts import consumer_names
from stack.runtimes import choose_runtime, running_runtime
from stack.settings import BACKENDS, MOST_CONSUMERS, Settings
from stack.show import show, watch
from stack.verify import verify


def up(settings: Settings) -> None:
    """Starts the stack and says what to open."""
    runtime = choose_runtime(settings)
    runtime.up()
    runtime.end_sessions(consumer_names(MOST_CONSUMERS)[settings.consumers :])
    scout = local_url(settings.viewer_port, "/traces") if settings.local_scout else settings.scout_otlp_endpoint
    pages = {
        "Traces": str(scout),
        **backend_pages(settings),
        "Echo": local_url(settings.echo_port, "/docs"),
        "Broker": settings.broker_address,
        "Next": "make verify",
    }
    for name, address in pages.items():
        console.print(f"{name + ':':<11} {address}")


def down(settings: Settings, part: str | None) -> None:
    """Stops the stack, or one part of it.

    Raises:
        StackError: If there is no such part, or the stack is not up.
    """
    if part is None:
        for runtime in (LocalRuntime(settings), DockerRuntime(settings)):
            if runtime.running():
                runtime.down()
        console.print("The stack is down.")
        return
    runtime = running_runtime(settings)
    names = [name for name, _, _ in runtime.states()]
    if part not in names:
        raise StackError(f"PART is {part!r}; it must be one of {', '.join(names)}")
    runtime.stop(part)
    console.print(f"{part} is stopped; `make up` starts it again.")


def ps(settings: Settings) -> None:
    """Shows each part with its state."""
    try:
        runtime = running_runtime(settings)
    except StackError:
        runtime = LocalRuntime(settings)
    table = Table("part", "state", "address", title=None)
    for row in runtime.states():
        table.add_row(*row)
    console.print(table)


def main() -> int | None:
    """Runs one command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="stack", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("up", "ps", "watch", "doctor"):
        commands.add_parser(name)
    commands.add_parser("verify").add_argument("backend", nargs="?", choices=BACKENDS)
    commands.add_parser("prepare").add_argument("--for-tests", action="store_true")
    for name in ("down", "logs"):
        commands.add_parser(name).add_argument("part", nargs="?")
    commands.add_parser("trace").add_argument("id", nargs="?")
    arguments = parser.parse_args()
    settings = load_settings(Settings)
    match arguments.command:
        case "up":
            up(settings)
        case "down":
            down(settings, arguments.part)
        case "ps":
            ps(settings)
        case "logs":
            running_runtime(settings).logs(arguments.part, follow=sys.stdout.isatty())
        case "verify":
            return verify(running_runtime(settings), settings, arguments.backend)
        case "trace":
            running_runtime(settings)
            show(settings, arguments.id)
        case "watch":
            running_runtime(settings)
            # That is how it ends.
            with suppress(KeyboardInterrupt):
                watch(settings)
        case "doctor":
            return doctor(running_runtime(settings), settings)
        case "prepare":
            build.prepare(settings, arguments.for_tests)
    return None


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
