"""Each exercise of the workshop: its check names what is missing, its solution passes, and nothing of it stays."""

import subprocess
from collections.abc import Callable

import pytest

from harness import Stack
from stack.part import local_url
from stack.settings import ROOT
from stack.workshop import WORKSHOP, blocks
from stack.workshop.exercises import EXERCISES

# What the check says of a stack on which nobody has begun.
BEGINNING = {
    "1": "workshop/mine/1.env has no READING_TRACE=: the id of the trace that `make verify` printed",
    "2": "the backend holds no span with mqtt.missing_context=true: start the producer with MQTT_PROTOCOL=3.1.1",
    "3": "no reading with QoS 0 has arrived at the consumer: .venv/bin/python workshop/publisher.py --qos 0",
    "4": "no span of a service called alerter: set up OpenTelemetry in workshop/mine/4-alerter.py, and run it",
    "5": "no span in the last 20 traces has a link: start the consumer with BATCH_SIZE=5",
    "6": "no reading of workshop-001 is in the dead letters: .venv/bin/python workshop/publisher.py --broken",
    "7": "the Collector has not had to try an export again: `make down PART=gateway`, and publish",
    "8": "no spans of consumer and echo with site.id=workshop: "
    ".venv/bin/python workshop/publisher.py --baggage site.id=workshop",
}
# They tell how a part was started, not as what.
OF_THE_SHELL = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKE_TERMOUT", "MAKE_TERMERR", "OLDPWD", "PWD", "SHLVL", "_"}
PAGES = {exercise: next(WORKSHOP.glob(f"{exercise}-*.md")) for exercise in EXERCISES}


@pytest.fixture(scope="module")
def stack(new_stack: Callable[..., Stack]) -> Stack:
    """One for all exercises: each leaves it as it was."""
    stack = new_stack()
    # The programs of the workshop have the default ports; facilitator.md says what to export for others.
    stack.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = local_url(stack.settings.otlp_grpc_port)
    assert make(stack, "up").returncode == 0
    return stack


def make(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs make as a person at a terminal does."""
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT,
        env=stack.environment,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def work_tree() -> dict[str, bytes | str]:
    """What git sees of the work tree, the workshop's own files, and the user's settings."""
    files = [*WORKSHOP.rglob("*"), ROOT / ".env"]
    contents = {str(file): file.read_bytes() for file in files if file.is_file() and file.suffix != ".pyc"}
    status = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True)
    return {**contents, "git status": status.stdout}


def started_as(stack: Stack) -> dict[str, dict[str, str]]:
    """The variables that each part runs with, and that all of them are healthy."""
    states = stack.runtime.states()
    assert {state for _, state, _ in states} == {"healthy"}, states
    return {
        name: {key: value for key, value in stack.runtime.environment(name).items() if key not in OF_THE_SHELL}
        for name, _, _ in states
    }


@pytest.mark.timeout(240)
@pytest.mark.parametrize("exercise", EXERCISES)
def test_an_exercise_can_be_checked_solved_and_taken_back(stack: Stack, exercise: str) -> None:
    (check,) = blocks(PAGES[exercise], "Check")
    assert check == f"make check EXERCISE={exercise}\n"
    files, settings = work_tree(), started_as(stack)

    before = make(stack, "check", f"EXERCISE={exercise}")
    assert before.returncode != 0
    assert f"✗ {BEGINNING[exercise]}\n" in before.stdout

    solved = make(stack, "solution", f"EXERCISE={exercise}")
    assert solved.returncode == 0, solved.stdout + solved.stderr
    after = make(stack, "check", f"EXERCISE={exercise}")
    assert after.returncode == 0, solved.stdout + solved.stderr + after.stdout
    assert after.stdout.startswith(f"✓ Exercise {exercise}. ")

    taken_back = make(stack, "solution", f"EXERCISE={exercise}", "UNDO=1")
    assert taken_back.returncode == 0, taken_back.stdout + taken_back.stderr
    assert work_tree() == files
    assert started_as(stack) == settings
    verified = make(stack, "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
