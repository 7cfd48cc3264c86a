"""Output: with colour and spinners on a terminal, in plain lines elsewhere."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text
from typing_extensions import override

from stack.errors import StackError


class _Console(Console):
    """Stops printing when nobody reads the output any more, as in ``make up | head``; the command still finishes."""

    @override
    def on_broken_pipe(self) -> None:
        self.quiet = True
        # So that Python does not complain when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


console = _Console(highlight=False, soft_wrap=True)
errors = _Console(stderr=True, highlight=False, soft_wrap=True)
# The time between two lines about a long task, without a terminal.
LINE_SECONDS = 15.0
# The task, the number of finished items, and the number of all items if it is known.
Show = Callable[[str, int, int | None], None]


@contextmanager
def progress() -> Iterator[Show]:
    """Gives a function that shows progress: a bar on a terminal, a line now and then elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        last = time.monotonic()

        def show(what: str, done: int, total: int | None) -> None:
            nonlocal last
            bar.update(task, description=what, completed=done, total=total)
            if not console.is_terminal and time.monotonic() - last >= LINE_SECONDS:
                last = time.monotonic()
                console.print(f"{what}: {done}{'' if total is None else f' of {total}'}")

        yield show


def exit_code(command: Callable[[], int | None]) -> int:
    """Runs a command, and prints an error that the user can fix as one line; returns the exit code."""
    try:
        return command() or 0
    except StackError as error:
        # Without markup, because the end of a log may contain text that looks like rich's markup.
        errors.print(Text.assemble(("error:", "red"), f" {error}"))
        return 1
    except PermissionError as error:
        # For example, the checkout or .env belongs to another user.
        errors.print(Text.assemble(("error:", "red"), f" this user may not read or write {error.filename or error}"))
        return 1
    except KeyboardInterrupt:
        return 130
