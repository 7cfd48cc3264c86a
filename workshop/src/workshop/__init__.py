"""``make workshop``, ``make check`` and ``make solution``: the exercises, whose pages are in ``workshop/``.

A page has all commands: the solution runs its ``sh`` blocks under "Steps" and "Solution", in order; the block under
"Take it back" undoes them. So a page and its solution cannot differ.

A person's files for exercise 3 are in ``workshop/mine``, with names that start with 3. A solution makes the same files;
it neither overwrites nor deletes those of a person.
"""

import hashlib
import json
import os
import re
import subprocess
import time
from pathlib import Path
from textwrap import indent

from dotenv import dotenv_values
from rich.text import Text

from stack.console import console
from stack.errors import StackError
from stack.runtime import Runtime
from stack.settings import ROOT, Settings
from stack.show import local_viewer
from workshop.exercises import EXERCISES, MINE, WORKSHOP, Evidence, still_missing

# After this time, the spans of the last seconds have arrived at the backend.
PATIENCE_SECONDS = 3.0
SECTION = re.compile(r"^## (.+?)\n(.*?)(?=^## |\Z)", re.M | re.S)
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.M | re.S)
# Not passed on, so that the commands of a page run as in a separate terminal.
OF_MAKE = ("MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS", "EXERCISE", "UNDO")


def check(runtime: Runtime, settings: Settings, exercise: str) -> int:
    """Prints a line for each thing that is missing in an exercise; returns the exit code.

    Raises:
        StackError: If there is no such exercise, or no backend on this machine.
    """
    page = page_of(exercise)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while missing := what_is_missing(runtime, settings, exercise):
        if time.monotonic() > deadline:
            for line in missing:
                console.print(Text.assemble(("✗", "red"), f" {line}"))
            return 1
        time.sleep(0.3)
    console.print(Text.assemble(("✓", "green"), f" Exercise {title(page)} is done."))
    return 0


def what_is_missing(runtime: Runtime, settings: Settings, exercise: str) -> list[str]:
    """A line for each thing that is missing in an exercise at the moment.

    Raises:
        StackError: If there is no backend on this machine, or it does not answer.
    """
    evidence = Evidence(runtime, local_viewer(settings), answers_file(exercise), answers_to(exercise))
    return list(still_missing(EXERCISES[exercise], evidence))


def apply(runtime: Runtime, settings: Settings, exercise: str) -> None:
    """Does all steps on the page of an exercise, and its solution.

    Raises:
        StackError: If there is no such exercise, a command fails, or there are files that it would overwrite; then
            nothing was done.
    """
    page = page_of(exercise)
    if _record(exercise).exists():
        raise StackError(f"the solution is applied already; `make solution EXERCISE={exercise} UNDO=1` takes it back")
    if own := files_of(exercise):
        names = ", ".join(map(_name, own))
        raise StackError(f"{names}: yours, and the solution would write over it; move it out of {_name(MINE)} first")
    try:
        for heading in ("Steps", "Solution"):
            _run(blocks(page, heading), runtime, settings)
    finally:
        _record(exercise).write_text(json.dumps({file.name: _digest(file) for file in files_of(exercise)}))
    console.print(f"`make check EXERCISE={exercise}` passes; `make solution EXERCISE={exercise} UNDO=1` takes it back.")


def take_back(runtime: Runtime, settings: Settings, exercise: str) -> None:
    """Restores the stack as it was before an exercise, and deletes the files that the solution made.

    Raises:
        StackError: If there is no such exercise, a command fails, or one of the files has changed since; then nothing
            was done.
    """
    page, made = page_of(exercise), _made(exercise)
    if changed := [file for file in files_of(exercise) if made and made.get(file.name) != _digest(file)]:
        names = ", ".join(map(_name, changed))
        raise StackError(f"{names}: changed since the solution was applied; move it out of {_name(MINE)} first")
    _run(blocks(page, "Take it back"), runtime, settings)
    for name in made:
        (MINE / name).unlink(missing_ok=True)
    _record(exercise).unlink(missing_ok=True)
    kept = [_name(file) for file in files_of(exercise)]
    console.print("The stack is as it was." + (f" Your files stay: {', '.join(kept)}." if kept else ""))


def reset(runtime: Runtime, settings: Settings, exercise: str) -> None:
    """Undoes an exercise and renames the files of a person, so that nothing of an earlier attempt counts any more.

    Raises:
        StackError: For the same reasons as ``take_back``.
    """
    made = _made(exercise)
    for file in files_of(exercise):
        if made.get(file.name) != _digest(file):
            file.rename(MINE / f"old-{file.name}")
    take_back(runtime, settings, exercise)


def page_of(exercise: str) -> Path:
    """The page of an exercise.

    Raises:
        StackError: If there is none.
    """
    if exercise not in EXERCISES:
        given = f"is {exercise!r}; it must be" if exercise else "is not set; it is"
        numbers = [*EXERCISES]
        raise StackError(f"EXERCISE {given} the number of an exercise, {numbers[0]} to {numbers[-1]}")
    (page,) = WORKSHOP.glob(f"{exercise}-*.md")
    return page


def title(page: Path) -> str:
    """The number and the name of an exercise."""
    return page.read_text().splitlines()[0].removeprefix("# ")


def blocks(page: Path, heading: str) -> list[str]:
    """The commands under a heading of a page."""
    return BLOCK.findall(section(page, heading))


def section(page: Path, heading: str) -> str:
    """The text under a heading of a page."""
    return dict(SECTION.findall(page.read_text())).get(heading, "")


def answers_file(exercise: str) -> str:
    """The path of the answers to an exercise, from the repository's root."""
    return _name(MINE / f"{exercise}.env")


def answers_to(exercise: str) -> dict[str, str]:
    """The answers so far, by their names."""
    return {name: value for name, value in dotenv_values(ROOT / answers_file(exercise)).items() if value}


def files_of(exercise: str) -> list[Path]:
    """The files of an exercise that exist, made by a participant or by the solution."""
    return sorted(MINE.glob(f"{exercise}[-.]*"))


def _record(exercise: str) -> Path:
    return MINE / f".solution-{exercise}"


def _made(exercise: str) -> dict[str, str]:
    """The files that the solution made, if it is applied, each with its digest."""
    record = _record(exercise)
    return json.loads(record.read_text()) if record.exists() else {}


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _run(commands: list[str], runtime: Runtime, settings: Settings) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in OF_MAKE}
    environment |= {"RUNTIME": runtime.name, **settings.addresses()}
    for command in commands:
        console.print(Text("\n" + indent(command.rstrip(), "  "), style="bold"))
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=ROOT, env=environment, check=False)
        if done.returncode != 0:
            raise StackError(f"this failed, with exit code {done.returncode}: {command.splitlines()[0]}")
