"""The documents are correct: links lead somewhere, commands work, code matches the source."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from harness import Stack, eventually, files_of_the_project
from stack.settings import ROOT
from stack.trace import Span

DOCUMENTS = files_of_the_project("*.md")
# The pages whose `sh` blocks are run, in order.
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
EXAMPLES = ROOT / "docs" / "examples"
# The line of a page whose commands need the stack's ports.
LOAD = ". ./env.sh"

ACCOUNT = "it needs an account at Scout or Azure"
DOCKER = "the backend needs Docker: tests/test_docker.py"
CLUSTER = "it needs a cluster: tests/test_kubernetes.py"
KIND = "it needs kind"
# The blocks that cannot run here: page, first line, and the reason.
NOT_RUN = {
    ("docs/scout.md", "cp .env.example .env   # then fill in the four SCOUT_* values"): ACCOUNT,
    ("docs/backends/azure-monitor.md", "export APPLICATIONINSIGHTS_CONNECTION_STRING='...'"): ACCOUNT,
    ("docs/backends/jaeger.md", "make up RUNTIME=docker BACKENDS=jaeger"): DOCKER,
    ("docs/backends/grafana.md", "make up RUNTIME=docker BACKENDS=grafana"): DOCKER,
    ("docs/kubernetes.md", "kind create cluster"): KIND,
    ("docs/kubernetes.md", ""): CLUSTER,
    ("docs/your-own-service.md", "pip install "): "it installs into an environment that is not the stack's",
}
# The blocks that must find something wrong: page, first line, and what they print.
FINDS = {("docs/walkthrough.md", "make doctor"): "✗ missing context: "}


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


def sh_blocks(text: str) -> list[str]:
    return [block for language, block in FENCED.findall(text) if language == "sh"]


def listed(table: dict[tuple[str, str], str], page: Path, block: str) -> str | None:
    """The entry for a block in one of the tables above."""
    found = [value for (name, start), value in table.items() if name == name_of(page) and block.startswith(start)]
    return found[0] if found else None


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub makes of the headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", FENCED.sub("", document.read_text()), re.M):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        count = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", other) is not None for other in found)
        found.add(f"{slug}-{count}" if count else slug)
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_link_leads_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\((?!https?://)([^)\s]+)\)", FENCED.sub("", document.read_text())):
        target, _, anchor = link.partition("#")
        path = (document.parent / target).resolve() if target else document
        assert path.exists(), link
        # GitHub shows the README of a folder.
        page = path / "README.md" if path.is_dir() else path
        assert not anchor or anchor in anchors(page), link


def test_the_index_of_the_docs_names_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / target).resolve() for target in re.findall(r"\]\(([^)#:]+)\)", index.read_text())}
    assert {page for page in index.parent.glob("**/*.md") if page != index} <= linked


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_make_target_exists(document: Path) -> None:
    # A project from the template has a Makefile too.
    makefiles = [ROOT / "Makefile", *(ROOT / "template" / "project").glob("*Makefile*")]
    targets = re.findall(r"^([a-z-]+):", "".join(file.read_text() for file in makefiles), re.M)
    for words in re.findall(r"(?:`|^|[A-Z_]+=\S+ )make ([a-z -]+)", document.read_text(), re.M):
        assert set(words.split()) <= set(targets), words


def test_make_alone_lists_the_commands() -> None:
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    commands = ("up", "down", "ps", "logs", "verify", "trace", "watch", "doctor", "new-service", "test", "lint", "docs")
    for target in commands:
        assert f"make {target} " in done.stdout


def test_the_code_in_the_pages_is_that_of_the_source() -> None:
    done = subprocess.run(["make", "docs", "CHECK=1"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "piece",
    [
        'python("producer/src/producer/sensor.py", "Sensor.gone")',
        'statement("producer/src/producer/sensor.py", "drift", "gone")',
        'yaml_block("collector/config.yaml", "exporters", "gone")',
    ],
)
def test_a_piece_of_code_that_is_gone_is_an_error(tmp_path: Path, piece: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"[[[cog import excerpts; excerpts.{piece} ]]]\n[[[end]]]\n")
    command = [sys.executable, "-m", "cogapp", "-I", str(ROOT / "docs"), str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "NotThereError" in done.stderr
    assert "gone" in done.stderr


YAML_BLOCK = re.compile(r"cog yaml_block\((.*?)\) \]\]\].*?```yaml\n(.*?)```", re.S)


@pytest.mark.parametrize("page", [page for page in PAGES if "yaml_block" in page.read_text()], ids=name_of)
def test_a_piece_of_configuration_is_the_whole_of_its_key_and_nothing_else(page: Path) -> None:
    for arguments, block in YAML_BLOCK.findall(page.read_text()):
        path, *keys = re.findall('"([^"]+)"', arguments)
        value = yaml.safe_load((ROOT / path).read_text())
        for key in keys:
            value = value[key]
        assert yaml.safe_load(block) == ({keys[-1]: value} if keys else value)


def shell(stack: Stack, folder: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Runs commands one after the other, as a reader does in one terminal; the stack is not at its usual ports.

    Args:
        stack: The stack for the commands.
        folder: A configuration folder without options for Mosquitto's clients.
    """
    before = ""

    def run(block: str) -> subprocess.CompletedProcess[str]:
        nonlocal before
        script, before = before + block, f"{LOAD}\n" if LOAD in block else before
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=ROOT,
            env=stack.environment | {"XDG_CONFIG_HOME": str(folder)},
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )

    return run


@pytest.fixture
def own_stack(new_stack: Callable[..., Stack]) -> Iterator[Stack]:
    """A stack for one page that stops it and starts it differently."""
    stack = new_stack(OTEL_METRIC_EXPORT_INTERVAL="10000")
    yield stack
    stack.runtime.down()


@pytest.mark.stack
@pytest.mark.timeout(480)
@pytest.mark.parametrize("page", [page for page in PAGES if sh_blocks(page.read_text())], ids=name_of)
def test_the_commands_of_a_page_work(page: Path, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    blocks = [block for block in sh_blocks(page.read_text()) if not listed(NOT_RUN, page, block)]
    if not blocks:
        pytest.skip("none of them can be run here: see NOT_RUN")
    changes = re.search("make down|=.*make up|make up.*=", "".join(blocks))
    stack: Stack = request.getfixturevalue("own_stack" if changes else "stack")
    run = shell(stack, tmp_path)
    if not blocks[0].startswith("make up"):
        stack.up()
    for block in blocks:
        done = run(block)
        finding = listed(FINDS, page, block)
        assert (done.returncode != 0) == (finding is not None), f"{block}{done.stdout}{done.stderr}"
        assert (finding or "") in done.stdout


LISTED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
FOLDERS = sorted({ROOT / name.split("/")[0] for name in LISTED if "/" in name and name[0] != "."})


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_a_folder_says_in_three_lines_what_it_is(folder: Path) -> None:
    _, _, *lines = (folder / "README.md").read_text().splitlines()
    for line, beginning in zip(lines, ("What it is", "Who calls it", "Where to start reading"), strict=False):
        assert line.startswith(f"- **{beginning}.** ")


def test_the_blocks_that_are_listed_are_there() -> None:
    for name, start in [*NOT_RUN, *FINDS]:
        assert any(block.startswith(start) for block in sh_blocks((ROOT / name).read_text())), (name, start)


def test_the_readmes_legacy_publisher_makes_a_tagged_root_that_echo_answers(stack: Stack, tmp_path: Path) -> None:
    blocks = sh_blocks((ROOT / "README.md").read_text())
    command = next(block for block in blocks if "mosquitto_pub" in block)
    # A second run shows the same.
    assert shell(stack, tmp_path)(command).returncode == 0
    since = time.time_ns()
    assert shell(stack, tmp_path)(command).returncode == 0
    topic = re.findall(r"-t (\S+)", command)[0]
    spans = stack.spans_of("messaging.destination.name", topic, count=3, since=since)
    (root,) = (span for span in spans if not span.parent_id)
    assert (root.kind, root.attributes["mqtt.missing_context"]) == ("Consumer", True)
    (answered,) = (span for span in spans if span.kind == "Server")
    assert answered.attributes["http.response.status_code"] == 200


class Example:
    """A program of docs/examples, run against a stack."""

    def __init__(self, stack: Stack) -> None:
        self._viewer = stack.viewer
        self._environment = stack.environment
        self._since = time.time_ns()

    def run(self, name: str, *launcher: str) -> str:
        """Runs it until it exits and returns what it prints."""
        command = self._command(name, *launcher)
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def started(self, name: str) -> subprocess.Popen[str]:
        """Starts it."""
        command, pipe = self._command(name), subprocess.PIPE
        return subprocess.Popen(command, env=self._environment, stdout=pipe, stderr=pipe, text=True, cwd=ROOT)

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Runs it until the block ends."""
        with self.started(name) as process:
            yield
            process.terminate()
            _, errors = process.communicate(timeout=20)
        # Mosquitto 2.0.11 exceeds Receive Maximum.
        errors = re.sub("the broker sends more than the Receive Maximum .*\n", "", errors)
        assert (process.returncode, errors) == (0, "")

    def _command(self, name: str, *launcher: str) -> list[str]:
        shell = ["bash", "-euc", f'{LOAD}; exec "$@"', "bash"]
        return [*shell, *launcher, sys.executable, str(EXAMPLES / f"{name}.py")]

    def spans(self, path: str, count: int = 1) -> list[Span]:
        """Waits for spans with such a path from the root.

        Args:
            path: A pattern for names and services, starting at the root of the trace.
            count: The number of spans.
        """

        def look() -> list[Span]:
            ids = self._viewer.trace_ids(self._since, time.time_ns())
            traces = [self._viewer.trace(trace_id) for trace_id in ids]
            return [span for trace in traces for span in trace if re.fullmatch(path, path_to(span, trace))]

        return eventually(lambda: found if len(found := look()) >= count else [])


def path_to(span: Span, trace: list[Span]) -> str:
    """The names and services of the spans from the root to this one."""
    before = "".join(f"{path_to(parent, trace)} > " for parent in trace if parent.span_id == span.parent_id)
    return f"{before}{span.name} {span.service}"


@pytest.fixture
def example(stack: Stack) -> Example:
    return Example(stack)


TO_ECHO = " > POST consumer > POST /echo echo"


def test_the_publisher_of_the_docs_starts_a_trace_that_goes_to_echo(example: Example) -> None:
    example.run("publisher")
    path = "publish publisher > process sensors/own-001/reading consumer"
    (process,) = example.spans(path)
    assert process.attributes["messaging.message.id"]
    example.spans(path + TO_ECHO)


def test_publisher_and_subscriber_by_hand_are_one_trace_that_goes_to_echo_too(example: Example) -> None:
    with example.started("by_hand_subscriber") as subscriber:
        assert subscriber.stdout is not None
        assert subscriber.stdout.readline() == "subscribed to sensors/own-001/reading\n"
        example.run("by_hand_publisher")
        received, errors = subscriber.communicate(timeout=20)
    assert (subscriber.returncode, errors) == (0, "")
    publish = "publish sensors/own-001/reading by-hand-publisher"
    process = f"{publish} > process sensors/own-001/reading"
    (by_hand,) = example.spans(f"{process} by-hand-subscriber")
    (echo,) = example.spans(f"{process} consumer{TO_ECHO}")
    assert by_hand.trace_id == echo.trace_id
    # The message carried the parent of the process span.
    assert f"'traceparent': '00-{by_hand.trace_id}-{by_hand.parent_id}-" in received


def test_the_subscriber_of_the_docs_works_inside_the_trace(example: Example) -> None:
    example.run("subscriber")
    path = r"publish \S+ producer > process sensors/\+/reading subscriber > judge temperature subscriber"
    assert [span.attributes["reading.warm"] for span in example.spans(path, count=3)] == [False] * 3


def test_the_worker_of_the_docs_takes_the_trace_to_echo(example: Example) -> None:
    with example.running("worker"):
        example.spans(
            r"publish \S+ producer > process sensors/\+/reading worker > POST worker > POST /echo echo", count=3
        )


INSTRUMENT = (str(Path(sys.executable).with_name("opentelemetry-instrument")), "--service_name")


@pytest.mark.parametrize("name", ["thermometer", "display"])
def test_a_program_for_zero_code_knows_nothing_of_tracing(name: str) -> None:
    assert "opentelemetry" not in (EXAMPLES / f"{name}.py").read_text().lower()


def test_a_publisher_without_a_change_starts_a_trace_that_goes_to_echo(example: Example) -> None:
    example.run("thermometer", *INSTRUMENT, "thermometer")
    example.spans("publish thermometer > process sensors/plain-001/reading consumer" + TO_ECHO)


def test_a_subscriber_without_a_change_continues_the_trace(example: Example) -> None:
    topic, _, payload = example.run("display", *INSTRUMENT, "display").partition(" ")
    assert json.loads(payload)["device_id"] in topic
    example.spans(rf"publish {topic} producer > process sensors/\+/reading display")
