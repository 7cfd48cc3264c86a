"""Every command of ``make help`` in every runtime, on ports other than the defaults."""

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest
from test_documents import sh_blocks

from harness import Stack
from stack.settings import ROOT
from test_docker import Containers, needs_engine

# The arguments of each command and a pattern of its output, in the order of a first session.
COMMANDS: list[tuple[str, tuple[str, ...], str]] = [
    ("up", (), r"^All \d+ parts are healthy after "),
    ("ps", (), r"│ consumer +│ healthy "),
    ("verify", (), r"^One reading, one trace: http://127\.0\.0\.1:\d+/traces/[0-9a-f]{32}$"),
    ("trace", (), r"publish sensors/sensor-\d+/reading +PRODUCER producer "),
    ("logs", ("PART=consumer",), r"processed reading [0-9a-f-]{36} on "),
    ("logs", (), r"processed reading [0-9a-f-]{36} on "),
    ("watch", (), r"publish sensors/sensor-\d+/reading +PRODUCER producer "),
    ("doctor", (), r"^All is well"),
    ("solution", ("EXERCISE=1",), r"^`make check EXERCISE=1` passes"),
    ("check", ("EXERCISE=1",), r"^✓ Exercise 1\. "),
    ("solution", ("EXERCISE=1", "UNDO=1"), r"^The stack is as it was\."),
    ("down", ("PART=echo",), r"^echo is stopped; "),
    ("up", (), r"^All \d+ parts are healthy after "),
    ("down", (), r"^The stack is down\.$"),
    ("ps", (), r"│ consumer +│ stopped |part +┃ state"),
]
# Commands that do not depend on a runtime, and what runs them.
ELSEWHERE = {
    "new-service": "tests/test_template.py",
    "dist": "tests/test_template.py",
    "sbom": "tests/test_licences.py",
    "test": ".ci/run",
    "test-long": ".ci/run",
    "test-brokers": "people; `make test` runs its two quickest",
    "test-interop": "people; `make test` runs its part in JavaScript",
    "test-quick": "a part of what `make test` runs",
    "test-matrix": "the instrumentation's maintainers",
    "bench": "tests/test_benchmarks.py runs a part of it",
    "lint": ".ci/run",
    "lock": "`make lint` checks what it makes",
    "docs": "`make lint`; tests/test_pictures.py takes the pictures",
    "workshop": "tests/test_workshop.py, at a terminal",
}
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module", params=["local", pytest.param("docker", marks=needs_engine)])
def stack(
    request: pytest.FixtureRequest, new_shared_stack: Callable[..., Stack], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """One stack for all the commands, in each runtime."""
    if request.param == "local":
        yield new_shared_stack(INTERVAL_SECONDS="1")
        return
    containers = Containers(tmp_path_factory.mktemp("containers"))
    yield containers
    containers.remove()


def make(stack: Stack, command: str, *arguments: str) -> tuple[int, str]:
    """Runs a command as a person does; ``make watch`` gets Ctrl-C when it has shown something."""
    words = ["make", "--no-print-directory", command, *arguments]
    with subprocess.Popen(
        words,
        cwd=ROOT,
        env=stack.environment | {"COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # If a shell runs the tests in the background, they would ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        if command != "watch":
            text = process.stdout.read()
            return process.wait(), text
        text = ""
        for line in process.stdout:
            text += line
            if "PRODUCER" in line:
                break
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stdout.read()
        assert "Traceback" not in rest
        # make reports the interruption in its exit code.
        return 0 if process.wait(30) in (0, 2, 130, -signal.SIGINT) else 1, text


@pytest.mark.parametrize(
    ("step", "command"), list(enumerate(COMMANDS)), ids=[f"{i:02}-{name}" for i, (name, *_) in enumerate(COMMANDS)]
)
def test_a_command_does_what_it_says(stack: Stack, step: int, command: tuple[str, tuple[str, ...], str]) -> None:
    name, arguments, said = command
    code, text = make(stack, name, *arguments)
    assert code == 0, text
    assert "Traceback" not in text, text
    assert re.search(said, text, re.M), text


def test_what_the_readme_types_works(stack: Stack) -> None:
    # Last: make doctor finds the legacy reading for five minutes.
    script = "".join(sh_blocks((ROOT / "README.md").read_text()))
    command = ["bash", "-euo", "pipefail", "-c", f"{script}make down\n"]
    done = subprocess.run(command, cwd=ROOT, env=stack.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "One reading, one trace: " in done.stdout
    assert done.stdout.endswith("The stack is down.\n")


def test_the_table_has_every_command_of_make_help() -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == ["run", "look", "learn", "develop"]
    # It fits on a screen.
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    listed = re.findall(r"\bmake (\S+)", done.stdout)
    assert {name for name, *_ in COMMANDS} | ELSEWHERE.keys() == set(listed)
