"""``make workshop``, ``make check`` and ``make solution``."""

import argparse

import workshop
from service import load_settings
from stack.console import exit_code
from stack.runtimes import running_runtime
from stack.settings import Settings
from workshop import screen


def main() -> int | None:
    """Runs one command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="workshop", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("watch")
    commands.add_parser("check").add_argument("exercise")
    solution = commands.add_parser("solution")
    solution.add_argument("exercise")
    solution.add_argument("--undo", action="store_true")
    arguments = parser.parse_args()
    settings = load_settings(Settings)
    if arguments.command == "watch":
        return screen.watch(settings)
    runtime = running_runtime(settings)
    if arguments.command == "check":
        return workshop.check(runtime, settings, arguments.exercise)
    act = workshop.take_back if arguments.undo else workshop.apply
    return act(runtime, settings, arguments.exercise)


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
