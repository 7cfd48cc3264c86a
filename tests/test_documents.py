"""What the documents say is so: links lead somewhere, commands work, code is what the source says."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import Stack, eventually, is_whole
from stack.part import local_url
from stack.settings import ROOT, Settings
from stack.trace import Span

DOCUMENTS = sorted(path for path in ROOT.glob("**/*.md") if ".venv" not in path.parts)
# Those whose `sh` blocks are run, in order, each page on a stack of its own.
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
EXAMPLES = ROOT / "docs" / "examples"

ACCOUNT = "it needs an account at Scout or Azure"
DOCKER = "the backend needs Docker: tests/test_docker.py"
# The blocks that cannot be run here: page and first line, and why.
NOT_RUN = {
    ("docs/scout.md", "cp .env.example .env   # then fill in the four SCOUT_* values"): ACCOUNT,
    ("docs/backends/azure-monitor.md", "export APPLICATIONINSIGHTS_CONNECTION_STRING='...'"): ACCOUNT,
    ("docs/backends/jaeger.md", "make up RUNTIME=docker BACKENDS=jaeger"): DOCKER,
    ("docs/backends/grafana.md", "make up RUNTIME=docker BACKENDS=grafana"): DOCKER,
    ("docs/your-own-service.md", "pip install "): "it installs into an environment that is not the stack's",
}


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


def sh_blocks(text: str) -> list[str]:
    return [block for language, block in FENCED.findall(text) if language == "sh"]


def why_not(page: Path, block: str) -> str | None:
    """Why a block is not run, if it is not."""
    reasons = [why for (name, start), why in NOT_RUN.items() if name == name_of(page) and block.startswith(start)]
    return reasons[0] if reasons else None


def anchors(document: Path) -> set[str]:
    """What GitHub makes of the headings."""
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
        # A folder shows its README.
        page = path / "README.md" if path.is_dir() else path
        assert not anchor or anchor in anchors(page), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_make_target_exists(document: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    for words in re.findall(r"(?:`|^|[A-Z_]+=\S+ )make ([a-z -]+)", document.read_text(), re.M):
        assert set(words.split()) <= set(targets), words


def test_make_alone_lists_the_commands() -> None:
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("up", "down", "ps", "logs", "verify", "trace", "watch", "doctor", "test", "lint", "docs"):
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


def shell(stack: Stack, folder: Path) -> Callable[[str], str]:
    """Runs commands as a reader does, who has the stack at its usual ports.

    Args:
        stack: Where the stack is instead.
        folder: For the options of Mosquitto's clients.
    """
    fields = Settings.model_fields.items()
    ports = {str(field.default): str(getattr(stack.settings, name)) for name, field in fields if name.endswith("_port")}
    for client in ("mosquitto_pub", "mosquitto_sub"):
        (folder / client).write_text(f"-p {stack.settings.mqtt_port}\n")
    environment = stack.environment | {
        "XDG_CONFIG_HOME": str(folder),
        "OTEL_EXPORTER_OTLP_ENDPOINT": local_url(stack.settings.otlp_grpc_port),
    }

    def run(block: str) -> str:
        here = re.sub(r"(?<=127\.0\.0\.1:)\d+", lambda port: ports.get(port[0], port[0]), block)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", here],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        assert done.returncode == 0, f"{here}\n{done.stdout}{done.stderr}"
        return done.stdout

    return run


@pytest.fixture
def own_stack(new_stack: Callable[..., Stack]) -> Iterator[Stack]:
    """A stack for one page, which may stop it and start it differently."""
    stack = new_stack()
    yield stack
    stack.runtime.down()


@pytest.mark.timeout(480)
@pytest.mark.parametrize("page", [page for page in PAGES if sh_blocks(page.read_text())], ids=name_of)
def test_the_commands_of_a_page_work(page: Path, own_stack: Stack, tmp_path: Path) -> None:
    blocks = [block for block in sh_blocks(page.read_text()) if not why_not(page, block)]
    if not blocks:
        pytest.skip("none of them can be run here: see NOT_RUN")
    run = shell(own_stack, tmp_path)
    if not blocks[0].startswith("make up"):
        own_stack.up()
    for block in blocks:
        run(block)


def test_what_is_not_run_is_still_there() -> None:
    for name, start in NOT_RUN:
        assert any(block.startswith(start) for block in sh_blocks((ROOT / name).read_text())), (name, start)


def test_the_readmes_legacy_publisher_makes_a_tagged_root_that_echo_answers(stack: Stack, tmp_path: Path) -> None:
    blocks = sh_blocks((ROOT / "README.md").read_text())
    command = next(block for block in blocks if block.startswith("mosquitto_pub"))
    shell(stack, tmp_path)(command)
    message_id = re.findall(r'"message_id": "([^"]+)"', command)[0]
    spans = stack.spans_of("messaging.message.id", message_id, count=3, since=0)
    (root,) = (span for span in spans if not span.parent_id)
    assert (root.kind, root.attributes["mqtt.missing_context"]) == ("Consumer", True)
    (answered,) = (span for span in spans if span.kind == "Server")
    assert answered.attributes["http.response.status_code"] == 200


class Example:
    """A program of docs/examples, run against a stack."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._environment = stack.environment | {
            "OTEL_EXPORTER_OTLP_ENDPOINT": local_url(stack.settings.otlp_grpc_port)
        }

    def run(self, name: str, *launcher: str) -> str:
        """Runs it to its end and returns what it prints."""
        command = [*launcher, sys.executable, str(EXAMPLES / f"{name}.py")]
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def traces(self, service: str, since: int, spans: int, count: int = 1) -> list[list[Span]]:
        """Waits for so many traces that have so many spans of a service."""

        def look() -> list[list[Span]]:
            ids = self._stack.viewer.trace_ids(since, time.time_ns())
            traces = [self._stack.viewer.trace(trace_id) for trace_id in ids]
            return [trace for trace in traces if sum(span.service == service for span in trace) == spans]

        eventually(lambda: len(look()) >= count)
        return look()


@pytest.fixture
def example(stack: Stack) -> Example:
    return Example(stack)


def path_to(span: Span, trace: list[Span]) -> list[str]:
    """The names and services of the spans from the root to this one."""
    parents = [other for other in trace if other.span_id == span.parent_id]
    return [*(path_to(parents[0], trace) if parents else []), f"{span.name} {span.service}"]


def test_the_publisher_of_the_docs_starts_a_whole_trace(stack: Stack, example: Example) -> None:
    since = time.time_ns()
    example.run("publisher")
    spans = stack.spans_of("messaging.destination.name", "sensors/own-001/reading", count=4, since=since)
    assert is_whole(spans)
    assert {span.service for span in spans} == {"publisher", "consumer", "echo"}


def test_the_subscriber_of_the_docs_works_inside_the_trace(example: Example) -> None:
    since = time.time_ns()
    example.run("subscriber")
    for trace in example.traces("subscriber", since, spans=2, count=3):
        (judged,) = (span for span in trace if span.name == "judge temperature")
        topic = trace[0].attributes.get("messaging.destination.name")
        assert path_to(judged, trace) == [
            f"publish {topic} producer",
            f"process {topic} subscriber",
            "judge temperature subscriber",
        ]
        assert judged.attributes["reading.warm"] is False


def test_the_worker_of_the_docs_takes_the_trace_to_echo(example: Example) -> None:
    since = time.time_ns()
    example.run("worker")
    for trace in example.traces("worker", since, spans=2, count=3):
        (post,) = (span for span in trace if (span.service, span.kind) == ("worker", "Client"))
        (answer,) = (span for span in trace if span.parent_id == post.span_id)
        topic = trace[0].attributes.get("messaging.destination.name")
        assert path_to(answer, trace) == [
            f"publish {topic} producer",
            f"process {topic} worker",
            "POST worker",
            "POST /echo echo",
        ]


INSTRUMENT = (str(Path(sys.executable).with_name("opentelemetry-instrument")), "--service_name")


@pytest.mark.parametrize("name", ["thermometer", "display"])
def test_a_program_for_zero_code_knows_nothing_of_tracing(name: str) -> None:
    assert "opentelemetry" not in (EXAMPLES / f"{name}.py").read_text().lower()


def test_a_publisher_without_a_change_starts_a_connected_trace(stack: Stack, example: Example) -> None:
    since = time.time_ns()
    example.run("thermometer", *INSTRUMENT, "thermometer")
    trace = stack.spans_of("messaging.destination.name", "sensors/plain-001/reading", count=4, since=since)
    (answer,) = (span for span in trace if span.kind == "Server")
    assert path_to(answer, trace) == [
        "publish sensors/plain-001/reading thermometer",
        "process sensors/plain-001/reading consumer",
        "POST consumer",
        "POST /echo echo",
    ]


def test_a_subscriber_without_a_change_continues_the_trace(example: Example) -> None:
    since = time.time_ns()
    topic, _, payload = example.run("display", *INSTRUMENT, "display").partition(" ")
    assert json.loads(payload)["device_id"] in topic
    (trace,) = example.traces("display", since, spans=1)
    (process,) = (span for span in trace if span.service == "display")
    assert path_to(process, trace) == [f"publish {topic} producer", f"process {topic} display"]
