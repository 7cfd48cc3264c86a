"""The tool behind ``make``: starts, stops, checks and shows the stack."""

import argparse
import os
import shlex
from contextlib import suppress
from pathlib import Path

from service import load_settings
from stack import build
from stack.console import console, errors, exit_code
from stack.environment import check_settings
from stack.errors import StackError
from stack.local import LocalRuntime
from stack.parts import consumer_names, local_parts
from stack.runtimes import alone, choose_runtime, reached_runtime, running_runtime, runtimes
from stack.settings import BACKENDS, LOADED, MOST_CONSUMERS, ROOT, Settings

LOG_LINES = 20


def up(settings: Settings) -> None:
    """Starts the stack and says what to open."""
    keep_private(ROOT / ".env")
    # Before anything stops: if a value is wrong, what runs keeps running.
    check_settings(local_parts(settings, build.paths()))
    with alone(settings.run_dir):
        runtime = choose_runtime(settings)
        runtime.up()
        # The session of a partition goes to its next owner.
        if not settings.partitions:
            runtime.end_sessions(consumer_names(MOST_CONSUMERS)[settings.consumers :])
    pages = {**runtime.pages(), "Next": "make verify"}
    for name, address in pages.items():
        console.print(f"{name + ':':<11} {address}")


def keep_private(file: Path) -> None:
    """Makes a file with passwords, if it exists, readable for its owner only."""
    if not file.exists() or file.stat().st_mode & 0o077 == 0:
        return
    try:
        file.chmod(0o600)
    except PermissionError:
        console.print(f"Others can read {file.name}, which may hold secrets; its owner should run `chmod 600` on it.")
    else:
        console.print(f"Others could read {file.name}, which may hold secrets; it is 0600 now.")


def down(settings: Settings, part: str | None) -> None:
    """Stops the stack, or one part of it.

    Raises:
        StackError: If there is no such part, the stack is not up, or a part keeps running.
    """
    if part is None:
        with alone(settings.run_dir):
            for runtime in runtimes(settings):
                runtime.down()
        console.print("The stack is down.")
        return
    runtime = running_runtime(settings)
    names = [name for name, _, _ in runtime.states()]
    if part not in names:
        raise StackError(f"PART is {part!r}; it must be one of {', '.join(names)}")
    runtime.stop(part)
    console.print(f"{part} is stopped; `make up` starts it again.")


def env(settings: Settings) -> None:
    """Prints where the stack listens, as commands for ``env.sh``."""
    addresses = settings.addresses()
    loaded = {name: value for name, value in addresses.items() if not os.environ.get(name)}
    for name, value in {**addresses, LOADED: " ".join(map("=".join, loaded.items()))}.items():
        console.print(f"export {name}={shlex.quote(value)}", markup=False)


def ps(settings: Settings) -> None:
    """Shows each part with its state."""
    from rich.table import Table

    try:
        runtime = running_runtime(settings)
    except StackError:
        runtime = LocalRuntime(settings)
    table = Table("part", "state", "address", title=None)
    for row in runtime.states():
        table.add_row(*row)
    if not settings.own_broker:
        table.add_row("broker", "yours", settings.broker_address)
    console.print(table)


def logs(settings: Settings, part: str | None, trace_id: str | None, lines: int, *, follow: bool) -> None:
    """Prints the end of the logs, or what was logged inside one trace.

    Raises:
        StackError: If the stack is not up, or there is nothing to print.
    """
    runtime = running_runtime(settings)
    if trace_id:
        runtime.trace_logs(trace_id, part)
        return
    more = "press Ctrl-C to stop." if follow else "LINES=100 shows more, FOLLOW=1 follows, TRACE=<id> shows one trace."
    errors.print(f"The last {lines} lines{'' if part else ' of each part'}; {more}", markup=False)
    runtime.logs(part, lines, follow=follow)


def line_count(text: str) -> int:
    """The value of LINES.

    Raises:
        StackError: If it is not a number of lines.
    """
    if not text.isdecimal() or int(text) == 0:
        raise StackError(f"LINES is {text!r}; it must be a number of lines, 1 or more")
    return int(text)


def main() -> int | None:
    """Runs one command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="stack", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("prepare", "up", "ps", "env", "watch", "doctor"):
        commands.add_parser(name)
    commands.add_parser("verify").add_argument("backend", nargs="?", choices=BACKENDS)
    commands.add_parser("down").add_argument("part", nargs="?")
    commands.add_parser("trace").add_argument("id", nargs="?")
    of_logs = commands.add_parser("logs")
    of_logs.add_argument("part", nargs="?")
    of_logs.add_argument("--trace")
    of_logs.add_argument("--lines", type=line_count, default=LOG_LINES)
    of_logs.add_argument("--follow", action="store_true")
    arguments = parser.parse_args()
    settings = load_settings(Settings)
    match arguments.command:
        case "up":
            up(settings)
        case "down":
            down(settings, arguments.part)
        case "env":
            env(settings)
        case "ps":
            ps(settings)
        case "logs":
            logs(settings, arguments.part, arguments.trace, arguments.lines, follow=arguments.follow)
        case "verify":
            from stack.verify import verify

            with reached_runtime(settings) as runtime:
                return verify(runtime, settings, arguments.backend)
        case "trace":
            from stack.show import show

            with reached_runtime(settings):
                show(settings, arguments.id)
        case "watch":
            from stack.show import watch

            # A user ends it by Ctrl-C.
            with reached_runtime(settings), suppress(KeyboardInterrupt):
                watch(settings)
        case "doctor":
            from stack.doctor import doctor

            with reached_runtime(settings) as runtime:
                return doctor(runtime, settings)
        case "prepare":
            build.prepare(settings)
    return None


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
