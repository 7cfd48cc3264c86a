"""On a fresh machine, PATH has the folders of the system and of the toolchains, but not ``.venv/bin``."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack.settings import ROOT

BIN = Path(sys.executable).parent
# Python itself comes from a toolchain, because it makes the environment.
OURS = {program.name for program in BIN.iterdir()} - {"python3"}
FILES = [
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    .stdout.rstrip("\0")
    .split("\0")
]
STARTERS = {"run", "Popen", "call", "check_call", "check_output", "which", "execvp", "execvpe", "require_command"}
# The bare name of a program at the start of a shell command.
COMMAND = re.compile(r"(?:^\s*[@-]?|[;&|(]\s*|\bexec\s+|\bthen\s+|\bdo\s+|\$\$?\()([\w.+-]+)(?=\s|$)", re.M)


def started_by_python(source: str) -> Iterator[str]:
    """The first word of each command that a program in Python may start."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.List) and node.elts:
            yield from constants(node.elts[0])
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in STARTERS:
            yield from (word for argument in node.args[:1] for word in constants(argument))


def constants(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value.split(" ")[0]


def started_by_shell(source: str) -> Iterator[str]:
    """The first word of each command in a script or a Makefile."""
    yield from COMMAND.findall(re.sub(r"(?<!\$)#.*", "", source))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('subprocess.run(["uv", "pip"])', ["uv"]),
        ('command = ["uv", "pip", *more]\nrun(command)', ["uv"]),
        ('shutil.which("ruff")', ["ruff"]),
        ('os.system; subprocess.run("pytest -q", shell=True)', ["pytest"]),
        ('run([f"{BIN}/uv"])', []),
    ],
)
def test_a_bare_name_in_python_is_seen(source: str, found: list[str]) -> None:
    assert [name for name in started_by_python(source) if name in OURS] == found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("lint:\n\t@uv pip compile\n", ["uv"]),
        ("\tcd x && ruff check .", ["ruff"]),
        ("version=$(uv --version)", ["uv"]),
        ("\t@$(BIN)/uv pip", []),
        ("# uv is ours", []),
    ],
)
def test_a_bare_name_in_a_script_is_seen(source: str, found: list[str]) -> None:
    assert [name for name in started_by_shell(source) if name in OURS] == found


def test_no_program_of_ours_is_started_by_a_name_that_only_the_environment_has() -> None:
    bare: list[str] = []
    for file in FILES:
        if file == Path(__file__) or not file.exists():
            continue
        if file.suffix == ".py":
            found = started_by_python(file.read_text())
        elif file.suffix == ".sh" or file.name == "Makefile" or file.parent.name == ".ci":
            found = started_by_shell(file.read_text())
        else:
            continue
        bare += [f"{file.relative_to(ROOT)}: {name}" for name in found if name in OURS]
    assert bare == []
