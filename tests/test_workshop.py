"""Each exercise of the workshop: its check names what is missing, its solution passes, and nothing of it stays."""

import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from textwrap import indent

import pytest

from harness import Stack, eventually
from stack.settings import ROOT
from workshop import BLOCK, MINE, WORKSHOP, answers_file, answers_to, blocks
from workshop.exercises import EXERCISES, READING, Evidence, kinds, still_missing

# What the check says of a stack on which nobody has begun.
BEGINNING = {
    "1": "workshop/mine/1.env has no READING_TRACE=: the id of the trace that `make verify` printed",
    "2": "the backend holds no span with mqtt.missing_context=true: start the producer with MQTT_PROTOCOL=3.1.1",
    "3": "no reading with QoS 0 has arrived at the consumer: .venv/bin/python workshop/publisher.py --qos 0",
    "4": "no span of a service called alerter: set up OpenTelemetry in workshop/mine/4-alerter.py, and run it",
    "5": "no span in the last 20 traces links to another: start the consumer with BATCH_SIZE=5",
    "6": "no reading of workshop-001 is in the dead letters: .venv/bin/python workshop/publisher.py --broken",
    "7": "the Collector has not had to try an export again: `make down PART=gateway`, and publish",
    "8": "no spans of consumer and echo with site.id=workshop: "
    ".venv/bin/python workshop/publisher.py --baggage site.id=workshop",
}
PAGES = {exercise: next(WORKSHOP.glob(f"{exercise}-*.md")) for exercise in EXERCISES}


@pytest.fixture(scope="module")
def stack(new_shared_stack: Callable[..., Stack]) -> Stack:
    """One for all exercises: each leaves it as it was."""
    stack = new_shared_stack()
    for block in BLOCK.findall((WORKSHOP / "README.md").read_text()):
        done = subprocess.run(
            ["bash", "-euc", block], cwd=ROOT, env=stack.environment, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
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
    eventually(lambda: {state for _, state, _ in stack.runtime.states()} == {"healthy"}, seconds=5)
    return {name: stack.runtime.environment(name) for name, _, _ in stack.runtime.states()}


def missing(stack: Stack, exercise: str, **changed: str) -> list[str]:
    """What the check says where these answers are others."""
    answers = answers_to(exercise) | changed
    evidence = Evidence(stack.runtime, stack.viewer, answers_file(exercise), answers)
    return list(still_missing(EXERCISES[exercise], evidence))


def wrong_answers(stack: Stack, exercise: str, name: str) -> list[str]:
    """Answers of the right form, and of the wrong one: also of another trace, whose spans are not of the same kinds."""
    right = answers_to(exercise).values()
    newest = [trace_id for trace_id in stack.viewer.trace_ids(0, time.time_ns()) if trace_id not in right]
    if name.endswith("_TRACE"):
        # One with fewer spans may only be incomplete, and become a trace of the same kinds.
        expected = Counter(kinds(stack.viewer.trace(answers_to(exercise)[name])))
        others = (trace_id for trace_id in newest if Counter(kinds(stack.viewer.trace(trace_id))) - expected)
        return ["no id", "0" * 32, *islice(others, 1)]
    if name.endswith("_READING"):
        traces = (stack.viewer.trace(trace_id) for trace_id in newest)
        whole = (
            str(spans[0].attributes.get("messaging.message.id", "")) for spans in traces if kinds(spans) == READING
        )
        return ["no id", next(reading for reading in whole if reading not in right)]
    return ["no number", "99999"]


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
    for command in blocks(PAGES[exercise], "Steps") + blocks(PAGES[exercise], "Solution"):
        assert indent(command, "  ") in solved.stdout
    after = make(stack, "check", f"EXERCISE={exercise}")
    assert after.returncode == 0, solved.stdout + solved.stderr + after.stdout
    assert after.stdout.startswith(f"✓ Exercise {exercise}. ")
    for name in EXERCISES[exercise].questions:
        for wrong in wrong_answers(stack, exercise, name):
            assert missing(stack, exercise, **{name: wrong}), f"{name}={wrong} passes"

    taken_back = make(stack, "solution", f"EXERCISE={exercise}", "UNDO=1")
    assert taken_back.returncode == 0, taken_back.stdout + taken_back.stderr
    assert work_tree() == files
    assert started_as(stack) == settings
    verified = make(stack, "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr


@pytest.mark.parametrize("exercise", EXERCISES)
def test_all_that_is_typed_is_where_the_solution_finds_it(exercise: str) -> None:
    page = PAGES[exercise]
    headings = ("Steps", "Check", "Solution", "Take it back")
    assert re.findall("^## (.*)$", page.read_text(), re.M) == list(headings)
    assert [block for heading in headings for block in blocks(page, heading)] == BLOCK.findall(page.read_text())
    # A name that is asked for is explained.
    assert all(f"\n{name}= " in page.read_text() for name in EXERCISES[exercise].questions)


def test_the_minutes_of_the_exercises_are_those_of_the_workshop() -> None:
    words = {"Ten": 10, "Twenty": 20}
    minutes = {number: words[re.findall(r"(\w+) minutes\.", page.read_text())[0]] for number, page in PAGES.items()}
    assert sum(minutes.values()) == 90
    for page, row in (("README.md", r"\[(\d)\. .*\| (\d+) \|"), ("facilitator.md", r"^\| (\d) \| (\d+) \|")):
        table = re.findall(row, (WORKSHOP / page).read_text(), re.M)
        assert {number: int(given) for number, given in table} == minutes


@pytest.fixture
def own_file() -> Iterator[Path]:
    """An answer that somebody has written to exercise 3."""
    file = MINE / "3.env"
    file.write_text("LOST_TRACE=mine\n")
    yield file
    file.unlink()


def test_a_solution_leaves_what_somebody_has_made(stack: Stack, own_file: Path) -> None:
    refused = make(stack, "solution", "EXERCISE=3")
    assert refused.returncode != 0
    said = "yours, and the solution would write over it; move it out of workshop/mine first"
    assert refused.stderr.splitlines()[0] == f"error: workshop/mine/3.env: {said}"
    assert refused.stdout == ""
    # Whoever did the steps by hand gets the stack back all the same.
    stack.stop_part("consumer")
    taken_back = make(stack, "solution", "EXERCISE=3", "UNDO=1")
    assert taken_back.stdout.endswith("The stack is as it was. Your files stay: workshop/mine/3.env.\n")
    eventually(lambda: ("consumer", "healthy") in [row[:2] for row in stack.runtime.states()], seconds=5)
    assert own_file.read_text() == "LOST_TRACE=mine\n"


def test_what_was_made_of_a_solution_is_not_deleted(stack: Stack) -> None:
    assert make(stack, "solution", "EXERCISE=1").returncode == 0
    answers = MINE / "1.env"
    solution = answers.read_text()
    again = make(stack, "solution", "EXERCISE=1")
    assert "error: the solution is applied already; `make solution EXERCISE=1 UNDO=1` takes it back\n" in again.stderr
    answers.write_text("changed")
    refused = make(stack, "solution", "EXERCISE=1", "UNDO=1")
    said = "changed since the solution was applied; move it out of workshop/mine first"
    assert f"error: workshop/mine/1.env: {said}\n" in refused.stderr
    assert answers.read_text() == "changed"
    answers.write_text(solution)
    assert make(stack, "solution", "EXERCISE=1", "UNDO=1").returncode == 0
    assert not answers.exists()


@pytest.mark.parametrize("command", ["check", "solution"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((), "EXERCISE is not set; it is the number of an exercise, 1 to 8"),
        (("EXERCISE=9",), "EXERCISE is '9'; it must be the number of an exercise, 1 to 8"),
    ],
)
def test_an_exercise_that_is_none_is_named(stack: Stack, command: str, given: tuple[str, ...], said: str) -> None:
    done = make(stack, command, *given)
    assert done.returncode != 0
    assert done.stderr.splitlines()[0] == f"error: {said}"


def test_the_check_tells_how_far_somebody_has_come_by_hand(stack: Stack, tmp_path: Path) -> None:
    # The backend forgets what the exercise itself has left there.
    make(stack, "down")
    stack.up()
    solution = (WORKSHOP / "solutions" / "alerter_by_hand.py").read_text().replace("READINGS = 5", "READINGS = 1")
    # In this order: what is in the backend stays there, so each run leaves out less than the one before.
    for left_out, said in (
        (
            ("        kind=SpanKind.CONSUMER,\n", "        context=extract(dict(user_properties)),\n"),
            "is INTERNAL; that of",
        ),
        (("        context=extract(dict(user_properties)),\n",), "is not below a publish span"),
        (('            "messaging.system": "mqtt",\n',), "lacks the attribute messaging.system"),
        ((), "no process span by the library"),
    ):
        program = tmp_path / "alerter.py"
        text = solution
        for line in left_out:
            assert line in text
            text = text.replace(line, "")
        program.write_text(text)
        subprocess.run(
            [sys.executable, str(program)], env=stack.environment, check=True, timeout=60, capture_output=True
        )
        eventually(lambda said=said: [line for line in missing(stack, "4") if said in line], seconds=10)
