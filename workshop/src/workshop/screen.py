"""``make workshop``: one screen that shows an exercise, and checks it whenever traces arrive or answers change."""

import json
import os
import re
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from textwrap import dedent

from rich.console import Console, Group
from rich.live import Live
from rich.markdown import Markdown
from rich.padding import Padding
from rich.text import Text

from stack.console import console
from stack.errors import StackError
from stack.runtimes import running_runtime
from stack.settings import Settings
from stack.show import local_viewer
from workshop import files_of, page_of, reset, section, title, what_is_missing
from workshop.exercises import EXERCISES, MINE

PROGRESS = MINE / ".progress.json"
# The interval between looks for new traces, and how far back they look.
LOOK_SECONDS = 1.0
RECENT_NANOSECONDS = 120 * 10**9
KEYS = "n next · p previous · h hint · r reset · q quit"
HINT = re.compile(r"</summary>\n(.*?)</details>", re.S)
NUMBERS = [*EXERCISES]


@dataclass
class Progress:
    """The progress of a participant; kept for the next start."""

    exercise: str = NUMBERS[0]
    done: list[str] = field(default_factory=list[str])
    # The number of shown hints, by exercise.
    hints: dict[str, int] = field(default_factory=dict[str, int])

    @classmethod
    def kept(cls) -> "Progress":
        """The progress of the last session; empty if there is none, or if it cannot be read."""
        try:
            progress = cls(**json.loads(PROGRESS.read_text()))
        except (OSError, ValueError, TypeError):
            return cls()
        return progress if progress.exercise in EXERCISES else cls()

    def keep(self) -> None:
        """Writes the progress to its file."""
        PROGRESS.write_text(json.dumps(asdict(self)))

    def move(self, steps: int) -> None:
        """Goes to another exercise, but not beyond the first and the last."""
        at = NUMBERS.index(self.exercise) + steps
        self.exercise = NUMBERS[max(0, min(at, len(NUMBERS) - 1))]


def watch(settings: Settings) -> None:
    """Shows the exercises until ``q`` or Ctrl-C.

    Raises:
        StackError: If there is no terminal, or no backend on this machine.
    """
    local_viewer(settings)
    if not (sys.stdin.isatty() and console.is_terminal):
        raise StackError("`make workshop` needs a terminal; `make check EXERCISE=1` checks an exercise without one")
    progress = Progress.kept()
    looked, seen, missing = 0.0, object(), list[str]()
    with _keyboard() as next_key, Live(console=Console(highlight=False), screen=True, auto_refresh=False) as live:
        while True:
            if time.monotonic() - looked >= LOOK_SECONDS:
                try:
                    now = _what_there_is(settings, progress.exercise)
                    if now != seen:
                        seen, missing = now, _check(settings, progress)
                except StackError as error:
                    seen, missing = object(), [f"{error} (`make ps` shows what runs)"]
                looked = time.monotonic()
            live.update(_screen(progress, missing), refresh=True)
            match next_key(LOOK_SECONDS / 4):
                case "q":
                    return
                case "n":
                    progress.move(1)
                case "p":
                    progress.move(-1)
                case "h":
                    shown = progress.hints.get(progress.exercise, 0) + 1
                    progress.hints[progress.exercise] = min(shown, len(hints(progress.exercise)))
                case "r":
                    live.stop()
                    _begin_again(settings, progress, next_key)
                    live.start(refresh=True)
                case _:
                    continue
            progress.keep()
            looked, seen = 0.0, object()


def hints(exercise: str) -> list[str]:
    """The hints of an exercise's page."""
    return [dedent(hint).strip() for hint in HINT.findall(section(page_of(exercise), "Hints"))]


def _what_there_is(settings: Settings, exercise: str) -> object:
    """A value that changes whenever the result of the check may change.

    Raises:
        StackError: If the backend does not answer.
    """
    now = time.time_ns()
    written = {file.name: file.stat().st_mtime_ns for file in files_of(exercise)}
    return exercise, written, local_viewer(settings).span_counts(now - RECENT_NANOSECONDS, now)


def _check(settings: Settings, progress: Progress) -> list[str]:
    """What is missing; marks the exercise as done if nothing is.

    Raises:
        StackError: If the stack does not run, or the backend does not answer.
    """
    missing = what_is_missing(running_runtime(settings), settings, progress.exercise)
    if not missing and progress.exercise not in progress.done:
        progress.done.append(progress.exercise)
        progress.keep()
    return missing


def _begin_again(settings: Settings, progress: Progress, next_key: Callable[[float], str]) -> None:
    """Undoes an exercise, and shows the output of the commands."""
    exercise = progress.exercise
    try:
        reset(running_runtime(settings), settings, exercise)
    except StackError as error:
        console.print(Text.assemble(("error:", "red"), f" {error}"))
    else:
        progress.done = [number for number in progress.done if number != exercise]
        progress.hints.pop(exercise, None)
    console.print("Any key goes on.")
    while not next_key(LOOK_SECONDS):
        pass


def _screen(progress: Progress, missing: list[str]) -> Group:
    exercise = progress.exercise
    page = page_of(exercise)
    goal, _, _ = page.read_text().partition("\n## ")
    return Group(
        Text("  ").join(_mark(number, progress) for number in NUMBERS),
        Text(KEYS, style="dim"),
        Text(),
        Text(title(page), style="bold"),
        Markdown(goal.partition("\n")[2].strip()),
        Text(f"Steps: workshop/{page.name}", style="cyan"),
        Text(),
        *(Text.assemble(("✗", "red"), f" {line}") for line in missing),
        *([] if missing else [Text.assemble(("✓", "green"), " Done. n goes to the next exercise.")]),
        Text(),
        *_hints(progress),
    )


def _mark(number: str, progress: Progress) -> Text:
    done = number in progress.done
    style = "bold reverse" if number == progress.exercise else "green" if done else "dim"
    return Text(f"{'✓' if done else '·'} {number}", style=style)


def _hints(progress: Progress) -> Iterator[Padding | Text]:
    there, shown = hints(progress.exercise), progress.hints.get(progress.exercise, 0)
    for number, hint in enumerate(there[:shown], 1):
        yield Text(f"Hint {number} of {len(there)}", style="yellow")
        yield Padding(Markdown(hint), (0, 0, 1, 2))
    if shown == len(there):
        yield Text(f"All hints are shown; `make solution EXERCISE={progress.exercise}` does the exercise.")


@contextmanager
def _keyboard() -> Iterator[Callable[[float], str]]:
    """Yields a function that waits some seconds for a key; it returns "" if none came, and "q" at the end of input."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)

    def next_key(seconds: float) -> str:
        ready, _, _ = select.select([descriptor], [], [], seconds)
        return (os.read(descriptor, 1).decode(errors="replace") or "q") if ready else ""

    try:
        yield next_key
    except KeyboardInterrupt:
        pass
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
