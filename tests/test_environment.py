"""The Python environment: ``make up`` installs what the stack needs; tests and linters add what they need."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from uv import find_uv_bin

from stack.settings import ROOT

# These tests make whole environments.
pytestmark = pytest.mark.stack

PACKAGES = sorted(path.parent for folder in ("*", "*/*") for path in ROOT.glob(f"{folder}/pyproject.toml"))
# Imports every module of our packages, except tests.
IMPORT_ALL = """
import importlib, pathlib, sys

for source in map(pathlib.Path, sys.argv[1:]):
    for file in source.rglob("*.py"):
        names = file.relative_to(source).with_suffix("").parts
        importlib.import_module(".".join(names[:-1] if names[-1] == "__init__" else names))
"""


@pytest.fixture(scope="module")
def made_twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A copy of this workspace in which two commands have installed at the same time, and what each printed."""
    folder = tmp_path_factory.mktemp("fresh")
    shutil.copy(ROOT / "Makefile", folder)
    shutil.copytree(ROOT / "requirements", folder / "requirements")
    for package in PACKAGES:
        shutil.copytree(
            package,
            folder / package.relative_to(ROOT),
            ignore=shutil.ignore_patterns("__pycache__", "tests"),
            dirs_exist_ok=True,
        )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "PYTEST", "COV"))}
    both = [
        subprocess.Popen(
            ["make", ".venv/ready"],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    printed = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    return folder, printed


@pytest.fixture(scope="module")
def fresh(made_twice: tuple[Path, list[str]]) -> Path:
    """The copy, whose environment has what the stack needs to run."""
    return made_twice[0]


def test_of_two_at_once_one_installs_and_the_other_waits(made_twice: tuple[Path, list[str]]) -> None:
    assert sorted(made_twice[1]) == [
        "Another command is setting up the Python environment; waiting for it ...\n",
        "Setting up the Python environment in .venv ...\n",
    ]


def test_an_environment_keeps_its_python_whatever_a_shell_has(fresh: Path, tmp_path: Path) -> None:
    other = tmp_path / "python3"
    other.write_text(f'#!/bin/sh\ncase "$*" in *venv*|*version_info*) exit 1;; esac\nexec {sys.executable} "$@"\n')
    other.chmod(0o755)
    command = ["make", ".venv/ready", f"PYTHON={other}"]
    (fresh / "requirements" / "run.txt").touch()
    done = subprocess.run(command, cwd=fresh, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "Setting up the Python environment in .venv ...\n"), done.stderr
    # Touched within a tick of the clock, run.txt would be no newer.
    os.utime(fresh / ".venv" / "ready", (0, 0))
    (fresh / ".venv" / "bin" / "python").rename(tmp_path / "python")
    try:
        done = subprocess.run(command, cwd=fresh, capture_output=True, text=True, check=False)
    finally:
        (tmp_path / "python").rename(fresh / ".venv" / "bin" / "python")
        (fresh / ".venv" / "ready").touch()
    assert done.returncode != 0
    assert done.stderr.splitlines()[0] == "Python 3.11 or newer is needed; PYTHON=... names another one"


def pins(lock: str) -> set[str]:
    """Name and version of each package in a lock file."""
    return set(re.findall(r"^(\S+==\S+)", (ROOT / "requirements" / lock).read_text(), re.M))


def uv(folder: Path, *arguments: str) -> str:
    """The output of uv for the environment in a folder, without the network."""
    python = folder / ".venv" / "bin" / "python"
    command = [find_uv_bin(), "--offline", "pip", *arguments, "--python", str(python)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def test_running_needs_only_what_is_in_its_lock_file(fresh: Path) -> None:
    own = {line.split("==")[0] for line in uv(fresh, "list", "--editable", "--format=freeze").splitlines()}
    assert len(own) == len(PACKAGES)
    found = set(uv(fresh, "freeze", "--exclude-editable").splitlines())
    # Every new environment has these.
    brought = {pin for pin in found if pin.startswith(("pip==", "setuptools=="))}
    assert found - brought <= pins("run.txt")
    absent = ("pytest", "pyright", "matplotlib", "playwright", "memray")
    assert not [pin for pin in found if pin.startswith(absent)]
    # The tested environment has each of them too.
    assert pins("run.txt") <= pins("dev.txt")


def test_every_module_can_be_imported_with_what_running_needs(fresh: Path) -> None:
    sources = [str(fresh / package.relative_to(ROOT) / "src") for package in PACKAGES]
    command = [str(fresh / ".venv" / "bin" / "python"), "-c", IMPORT_ALL, *sources]
    done = subprocess.run(command, cwd=fresh, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody who may not write")
def test_a_checkout_that_cannot_be_written_to_is_one_line() -> None:
    # Not below a folder that only root can read.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copy(ROOT / "Makefile", folder)
        shutil.copytree(ROOT / "requirements", folder / "requirements")
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        done = subprocess.run([*nobody, "make", "up"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.splitlines()[0] == f"This user may not write to {folder}"


def test_what_tests_need_comes_on_top_and_takes_nothing_out(fresh: Path) -> None:
    rehearsal = f"INSTALL={find_uv_bin()} --offline pip install --dry-run --no-deps --python .venv/bin/python"
    command = ["make", ".venv/dev", rehearsal]
    done = subprocess.run(command, cwd=fresh, capture_output=True, text=True, check=True)
    assert re.search(r"^ \+ pytest==", done.stderr, re.M), done.stderr
    assert not re.findall(r"^ [-~] .*", done.stderr, re.M)
