"""Each exercise of the workshop: its check names what is missing, its solution passes, and undoing leaves nothing."""

import os
import re
import select
import subprocess
import sys
import termios
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from textwrap import indent

import pytest

from harness import Stack, eventually
from stack.runtime import Runtime
from stack.runtimes import running_runtime
from stack.settings import ROOT
from test_docker import Containers, needs_engine
from workshop import BLOCK, SECTION, answers_file, answers_to, blocks
from workshop.exercises import EXERCISES, MINE, READING, WORKSHOP, Evidence, kinds, still_missing
from workshop.screen import PROGRESS, hints

# Images may have to be built first.
pytestmark = pytest.mark.timeout(900)
# The first line of the check on a stack where nobody has started the exercise.
BEGINNING = {
    "1": "workshop/mine/1.env has no READING_TRACE=: the id of the trace that `make verify` printed",
    "2": "the backend holds no span with mqtt.missing_context=true: start the producer with MQTT_PROTOCOL=3.1.1",
    "3": "no reading with QoS 0 has arrived at the consumer: .venv/bin/python workshop/publisher.py --qos 0",
    "4": "workshop/mine/4-by-hand.py is not there: `cp workshop/alerter.py workshop/mine/4-by-hand.py`",
    "5": "workshop/mine/5-digest.py is not there: `cp workshop/digest.py workshop/mine/5-digest.py`",
    "6": "no reading of workshop-001 is in the dead letters: .venv/bin/python workshop/publisher.py --broken",
    "7": "the Collector has not had to try an export again: `make down PART=gateway`, and publish",
    "8": "no spans of consumer and echo with site.id=workshop: "
    ".venv/bin/python workshop/publisher.py --baggage site.id=workshop --baggage visitor=Ada",
    "9": "workshop/mine/9.env has no UNSAMPLED_READING=: "
    "the message_id of a reading that was processed but has no trace",
    "10": "workshop/mine/10-visitor.py is not there: `cp workshop/visitor.py workshop/mine/10-visitor.py`",
}
QUESTION = re.compile(r"^(\d)\. (.*?)(?=^\S|\Z)", re.M | re.S)
PAGES = {exercise: next(WORKSHOP.glob(f"{exercise}-*.md")) for exercise in EXERCISES}


@pytest.fixture(scope="module", params=["local", pytest.param("docker", marks=needs_engine)])
def stack(
    request: pytest.FixtureRequest, new_shared_stack: Callable[..., Stack], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """One stack for all exercises, in each runtime; each exercise leaves it as it was."""
    if request.param == "local":
        yield begun(new_shared_stack())
        return
    containers = Containers(tmp_path_factory.mktemp("containers"))
    with pytest.MonkeyPatch.context() as environment:
        # Docker Compose, called by this process, reads the name and the ports of the stack from its environment.
        for name, value in containers.values.items():
            environment.setenv(name, value)
        try:
            yield begun(containers)
        finally:
            containers.remove()


def begun(stack: Stack) -> Stack:
    """The stack, started by the commands of the workshop's page."""
    for block in BLOCK.findall((WORKSHOP / "README.md").read_text()):
        done = subprocess.run(
            ["bash", "-euc", block], cwd=ROOT, env=stack.environment, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
    return stack


def runtime_of(stack: Stack) -> Runtime:
    """The runtime that the stack's commands use."""
    return running_runtime(stack.settings)


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
    """Git's view of the work tree, the workshop's own files, and the user's settings."""
    files = [*WORKSHOP.rglob("*"), ROOT / ".env"]
    contents = {str(file): file.read_bytes() for file in files if file.is_file() and file.suffix != ".pyc"}
    status = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True)
    return {**contents, "git status": status.stdout}


def started_as(stack: Stack) -> dict[str, dict[str, str]]:
    """The variables of each running part; all parts must be healthy."""
    eventually(lambda: {state for _, state, _ in runtime_of(stack).states()} == {"healthy"}, seconds=5)
    return {name: runtime_of(stack).environment(name) for name, _, _ in runtime_of(stack).states()}


def missing(stack: Stack, exercise: str, **changed: str) -> list[str]:
    """What the check reports if these answers are changed."""
    answers = answers_to(exercise) | changed
    evidence = Evidence(runtime_of(stack), stack.viewer, answers_file(exercise), answers)
    return list(still_missing(EXERCISES[exercise], evidence))


def wrong_answers(stack: Stack, exercise: str, name: str) -> list[str]:
    """Wrong answers: some of the wrong form, and one from another trace, whose spans are of other kinds."""
    right = answers_to(exercise).values()
    newest = [trace_id for trace_id in stack.viewer.trace_ids(0, time.time_ns()) if trace_id not in right]
    if name.endswith("_TRACE"):
        # A trace with fewer spans may be incomplete, and later have the same kinds.
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


ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Screen:
    """``make workshop`` in a terminal of 200 columns."""

    def __init__(self, stack: Stack) -> None:
        self._terminal, terminal = os.openpty()
        termios.tcsetwinsize(terminal, (40, 200))
        environment = stack.environment | {"TERM": "xterm-256color"}
        environment.pop("COLUMNS", None)
        command = ["make", "--no-print-directory", "workshop"]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
        )
        os.close(terminal)

    def press(self, key: str) -> None:
        os.write(self._terminal, key.encode())

    def shows(self, *lines: str, seconds: float = 10) -> None:
        """Waits until all of these lines are on the screen, which is drawn several times a second."""
        text = ""

        def look() -> bool:
            nonlocal text
            if select.select([self._terminal], [], [], 0.1)[0]:
                text += ESCAPES.sub("", os.read(self._terminal, 100_000).decode(errors="replace"))
            drawn = text[-8000:]
            return all(line in drawn for line in lines)

        eventually(look, seconds)

    def close(self) -> int:
        self.press("q")
        code = self.process.wait(10)
        os.close(self._terminal)
        return code


@pytest.fixture
def no_progress() -> Iterator[None]:
    """Restores the progress of a person who works in this folder."""
    kept = PROGRESS.read_bytes() if PROGRESS.exists() else None
    PROGRESS.unlink(missing_ok=True)
    yield
    PROGRESS.unlink(missing_ok=True)
    if kept is not None:
        PROGRESS.write_bytes(kept)


@pytest.mark.usefixtures("no_progress")
def test_the_screen_checks_by_itself_gives_hints_and_keeps_the_progress(stack: Stack) -> None:
    screen = Screen(stack)
    screen.shows("1. Read one trace", f"✗ {BEGINNING['1']}", "Steps: workshop/1-read-one-trace.md")
    for number in (1, 2, 3):
        screen.press("h")
        screen.shows(f"Hint {number} of 3")
    screen.shows("All hints are shown; `make solution EXERCISE=1` does the exercise.")
    # The screen shows new answers without a key.
    assert make(stack, "solution", "EXERCISE=1").returncode == 0
    screen.shows("✓ 1", "✓ Done. n goes to the next exercise.")
    screen.press("n")
    screen.shows("2. Lose the context", "✗ workshop/mine/2.env has no PUBLISH_TRACE=")
    assert screen.close() == 0

    screen = Screen(stack)
    screen.shows("✓ 1", "2. Lose the context")
    screen.press("p")
    screen.shows("1. Read one trace", "Hint 3 of 3")
    (MINE / "1-note.txt").write_text("mine")
    screen.press("r")
    screen.shows("The stack is as it was.", "Any key goes on.")
    screen.press(" ")
    screen.shows("· 1", f"✗ {BEGINNING['1']}")
    assert not list(MINE.glob("1[-.]*"))
    assert (MINE / "old-1-note.txt").read_text() == "mine"
    (MINE / "old-1-note.txt").unlink()
    assert screen.close() == 0


@pytest.mark.usefixtures("no_progress")
def test_the_screen_says_when_the_stack_is_away_and_goes_on_when_it_is_back(stack: Stack) -> None:
    if runtime_of(stack).name == "docker":
        pytest.skip("nginx answers for the viewer there")
    runtime_of(stack).stop("viewer")
    screen = Screen(stack)
    screen.shows("1. Read one trace", "✗ the viewer does not answer at ", "(`make ps` shows what runs)")
    assert make(stack, "up").returncode == 0
    screen.shows(f"✗ {BEGINNING['1']}")
    assert screen.close() == 0


def test_without_a_terminal_there_is_no_screen(stack: Stack) -> None:
    done = make(stack, "workshop")
    assert done.returncode != 0
    said = "`make workshop` needs a terminal; `make check EXERCISE=1` checks an exercise without one"
    assert done.stderr.splitlines()[0] == f"error: {said}"


@pytest.mark.parametrize("exercise", EXERCISES)
def test_each_exercise_has_three_hints(exercise: str) -> None:
    assert len(list(filter(None, hints(exercise)))) == 3


@pytest.mark.parametrize("exercise", EXERCISES)
def test_all_that_is_typed_is_where_the_solution_finds_it(exercise: str) -> None:
    page = PAGES[exercise]
    headings = ("Steps", "Hints", "Check", "Solution", "Take it back")
    assert re.findall("^## (.*)$", page.read_text(), re.M) == list(headings)
    assert [block for heading in headings for block in blocks(page, heading)] == BLOCK.findall(page.read_text())
    # The page explains each name that it asks for.
    assert all(f"\n{name}= " in page.read_text() for name in EXERCISES[exercise].questions)


def test_the_minutes_of_the_exercises_are_those_of_the_workshop() -> None:
    words = {"Ten": 10, "Twenty": 20}
    minutes = {number: words[re.findall(r"(\w+)\s+minutes\.", page.read_text())[0]] for number, page in PAGES.items()}
    assert f"about {sum(minutes.values())} minutes" in (WORKSHOP / "README.md").read_text()
    for page, row in (("README.md", r"\[(\d+)\. .*\| (\d+) \|"), ("facilitator.md", r"^\| (\d+) \| (\d+) \|")):
        table = re.findall(row, (WORKSHOP / page).read_text(), re.M)
        assert {number: int(given) for number, given in table} == minutes


@pytest.fixture
def own_file() -> Iterator[Path]:
    """A person's own answer to exercise 3."""
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
    # Undoing also restores the stack for a person who did the steps by hand.
    runtime_of(stack).stop("consumer")
    taken_back = make(stack, "solution", "EXERCISE=3", "UNDO=1")
    assert taken_back.stdout.endswith("The stack is as it was. Your files stay: workshop/mine/3.env.\n")
    eventually(lambda: ("consumer", "healthy") in [row[:2] for row in runtime_of(stack).states()], seconds=5)
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
        ((), "EXERCISE is not set; it is the number of an exercise, 1 to 10"),
        (("EXERCISE=0",), "EXERCISE is '0'; it must be the number of an exercise, 1 to 10"),
    ],
)
def test_an_exercise_that_is_none_is_named(stack: Stack, command: str, given: tuple[str, ...], said: str) -> None:
    done = make(stack, command, *given)
    assert done.returncode != 0
    assert done.stderr.splitlines()[0] == f"error: {said}"


@pytest.mark.parametrize("exercise", EXERCISES)
def test_each_question_has_its_answer_in_the_solution(exercise: str) -> None:
    sections = dict(SECTION.findall(PAGES[exercise].read_text()))
    asked = [number for number, text in QUESTION.findall(sections["Steps"]) if "?" in text]
    assert asked
    assert re.findall(r"^- \*\*(\d)\.\*\* ", sections["Solution"], re.M) == asked


def in_mine(name: str, text: str) -> Path:
    """A program of a person who does an exercise by hand."""
    program = MINE / name
    program.write_text(text)
    return program


def run(stack: Stack, program: Path) -> None:
    """Runs it until it exits, when its spans have been exported."""
    subprocess.run([sys.executable, str(program)], env=stack.environment, check=True, timeout=60, capture_output=True)


def without(text: str, lines: tuple[str, ...]) -> str:
    for line in lines:
        assert line in text
        text = text.replace(line, "")
    return text


@pytest.fixture
def no_own_programs() -> Iterator[None]:
    """Deletes such programs after the test."""
    yield
    for program in MINE.glob("*.py"):
        program.unlink()


@pytest.mark.usefixtures("no_own_programs")
def test_the_check_tells_how_far_somebody_has_come_by_hand(stack: Stack) -> None:
    solution = (WORKSHOP / "solutions" / "alerter_by_hand.py").read_text().replace("READINGS = 5", "READINGS = 1")
    below = "        context=extract(dict(user_properties)),\n"
    by_library = in_mine("4-by-library.py", (WORKSHOP / "solutions" / "alerter_by_library.py").read_text())
    # The last case too: a correct run before the program was changed does not count.
    for left_out, said in (
        (("        kind=SpanKind.CONSUMER,\n", below), "is INTERNAL; that of"),
        ((below,), "is not below a publish span"),
        (('            "messaging.system": "mqtt",\n',), "lacks the attribute messaging.system"),
        ((), "no process span by the library since"),
        ((below,), "is not below a publish span"),
    ):
        program = in_mine("4-by-hand.py", without(solution, left_out))
        assert missing(stack, "4") == [
            f"no span of a service called alerter since workshop/mine/{program.name} was changed: "
            "set up OpenTelemetry in it, and run it"
        ]
        run(stack, program)
        eventually(lambda said=said: [line for line in missing(stack, "4") if said in line], seconds=10)
    by_library.unlink()
    in_mine("4-by-hand.py", solution)
    run(stack, MINE / "4-by-hand.py")
    said = "workshop/mine/4-by-library.py is not there: `cp workshop/mine/4-by-hand.py workshop/mine/4-by-library.py`"
    eventually(lambda: missing(stack, "4") == [said], seconds=10)


@pytest.mark.usefixtures("no_own_programs")
def test_the_check_tells_what_is_wrong_with_a_batch(stack: Stack) -> None:
    solution = (WORKSHOP / "solutions" / "digest_with_links.py").read_text()
    line = "with process_batch(received, client=client):"
    tracer = "with trace.get_tracer('digest').start_as_current_span('batch'"
    for wrong, said in (
        (f"{tracer}):", "batch of digest: 0 of its 0 links lead to the publish span of a reading"),
        (f"{tracer}, extract(dict(message.properties.UserProperty))):", "has one of its readings as parent"),
        ("with process_batch(received[:3], client=client):", "3 of its 3 links lead to the publish span of a reading"),
        (line, "5.env has no BATCH_TRACE="),
    ):
        assert line in solution
        text = solution.replace(line, wrong).replace(
            "import paho", "from opentelemetry.propagate import extract\nimport paho", 1
        )
        program = in_mine("5-digest.py", text)
        assert missing(stack, "5")[0].startswith("no span of a service called digest since ")
        run(stack, program)
        eventually(lambda said=said: [line for line in missing(stack, "5") if said in line], seconds=10)


@pytest.mark.usefixtures("no_own_programs")
def test_the_check_tells_what_a_visitor_has_not_recorded(stack: Stack) -> None:
    program = in_mine("10-visitor.py", (WORKSHOP / "visitor.py").read_text())
    assert missing(stack, "10")[0].startswith("no span of a service called visitor since ")
    run(stack, program)
    said = "connect of visitor lacks mqtt.connack.AssignedClientIdentifier: one attribute for each property"
    eventually(lambda: missing(stack, "10")[0] == said, seconds=10)
    program = in_mine("10-visitor.py", (WORKSHOP / "solutions" / "visitor_with_connack.py").read_text())
    run(stack, program)
    answers = {"RECEIVE_MAXIMUM": "20", "SESSION_SECONDS": "3600", "SHARED": "yes", "RETAINED": "no"}
    eventually(lambda: missing(stack, "10", **answers) == [], seconds=10)
    wrong = {"SESSION_SECONDS": "0", "RETAINED": "yes"}
    assert missing(stack, "10", **answers | wrong) == [
        "SESSION_SECONDS is 0; SessionExpiryInterval is not in the CONNACK: look up its default",
        "RETAINED is yes; RetainAvailable is in the CONNACK",
    ]
