"""Clients in other languages share a trace with our consumer and our producer; ``make test-interop``.

Each language's page has the commands: the first block builds, the second publishes, the third subscribes.
"""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from test_documents import name_of, path_to, sh_blocks

from harness import Stack, eventually, files_of_the_project, reading
from stack.part import local_url
from stack.settings import ROOT
from stack.trace import Span, roots

INTEROP = ROOT / "interop"
VECTORS: list[dict[str, Any]] = json.loads((INTEROP / "vectors.json").read_text())["vectors"]
# The result of a language's SDK, if a vector requires a different one. The language's page says so too.
DIFFERENT: dict[tuple[str, str], dict[str, Any]] = {
    ("go", "valid, unknown flags"): {"baggage": {}, "missing_context": True},
    **{
        ("rust", vector): {
            "trace_id": "0af7651916cd43dd8448eb211c80319c",
            "span_id": "b7ad6b7169203331",
            "sampled": sampled,
            "tracestate": "",
            "baggage": {},
        }
        for vector, sampled in (("invalid, short trace id", True), ("invalid, short flags", False))
    },
}
# Languages whose programs are built within seconds, so `make test` runs them too.
QUICK = {"javascript"}
LANGUAGES = ["cloudevents", "go", "java", "javascript", "rust"]
# Their SDKs read OTEL_PROPAGATORS; Go's and Rust's leave propagators to the program.
WITH_PROPAGATORS_FROM_THE_ENVIRONMENT = ["cloudevents", "java", "javascript"]
PROGRAMS = {".go", ".java", ".mjs", ".rs"}
pytestmark = pytest.mark.timeout(900)


class Language:
    """The two programs of a language, run with the commands of its page."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.page = (INTEROP / name / "README.md").read_text()
        self._build, self._publish, self._subscribe = sh_blocks(self.page)

    def build(self) -> None:
        """Builds the programs, or skips the test."""
        toolchain = self._build.split()[0]
        if shutil.which(toolchain) is None:
            pytest.skip(f"interop/{self.name} needs {toolchain}, which is not installed here")
        done = self._run(self._build, {}, timeout=850)
        assert done.returncode == 0, done.stdout + done.stderr

    def publish(self, stack: Stack, **environment: str) -> str:
        """Publishes a reading; returns the id of its trace."""
        done = self._run(self._publish, self._environment(stack) | environment, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.split()[-1]

    @contextmanager
    def subscribed(self, stack: Stack, topic_filter: str, count: int) -> Iterator[Iterator[str]]:
        """Runs the subscriber until it has so many messages; yields what it prints for each."""
        command = f"exec {self._subscribe.strip()} '{topic_filter}' {count}"
        with subprocess.Popen(
            ["bash", "-c", command], cwd=ROOT, env=self._environment(stack), stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            try:
                assert process.stdout.readline() == f"subscribed to {topic_filter}\n"
                yield process.stdout
                assert process.wait(30) == 0
            finally:
                process.kill()

    @staticmethod
    def _environment(stack: Stack) -> dict[str, str]:
        return stack.environment | {"OTEL_EXPORTER_OTLP_ENDPOINT": local_url(stack.settings.otlp_http_port)}

    @staticmethod
    def _run(block: str, environment: Mapping[str, str], timeout: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=ROOT,
            env=environment or None,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[] if name in QUICK else pytest.mark.interop) for name in LANGUAGES],
)
def language(request: pytest.FixtureRequest) -> Language:
    """One language, after its programs are built."""
    made = Language(request.param)
    made.build()
    return made


def trace_of(stack: Stack, trace_id: str, count: int) -> list[Span]:
    """Waits until a trace has so many spans."""
    return eventually(lambda: found if len(found := stack.viewer.trace(trace_id)) >= count else [])


def paths(spans: list[Span]) -> set[str]:
    return {path_to(span, spans) for span in spans}


def test_a_publishers_trace_goes_on_to_echo(language: Language, stack: Stack) -> None:
    name = language.name
    spans = trace_of(stack, language.publish(stack), count=4)
    publish = f"publish sensors/{name}-001/reading {name}-publisher"
    process = f"{publish} > process sensors/{name}-001/reading consumer"
    assert paths(spans) == {
        publish,
        process,
        f"{process} > POST consumer",
        f"{process} > POST consumer > POST /echo echo",
    }
    (root,) = roots(spans)
    assert (root.kind, root.status) == ("Producer", "Unset")
    (answer,) = (span for span in spans if span.service == "echo")
    assert answer.attributes["http.response.status_code"] == 200


def test_a_subscriber_joins_the_producers_trace(language: Language, stack: Stack) -> None:
    topic = "sensors/sensor-001/reading"
    with language.subscribed(stack, topic, 1) as lines:
        fields = json.loads(next(lines))
    trace_id, span_id = fields["traceparent"].split("-")[1:3]
    # Our own consumer has also processed the same reading.
    spans = trace_of(stack, trace_id, count=5)
    (process,) = (span for span in spans if span.service == f"{language.name}-subscriber")
    assert path_to(process, spans) == f"publish {topic} producer > process {topic} {language.name}-subscriber"
    assert (process.kind, process.parent_id, process.links) == ("Consumer", span_id, ((trace_id, span_id),))
    assert "mqtt.missing_context" not in process.attributes
    assert f"publish {topic} producer > process {topic} consumer > POST consumer > POST /echo echo" in paths(spans)


@pytest.mark.parametrize("language", WITH_PROPAGATORS_FROM_THE_ENVIRONMENT, indirect=True)
def test_a_message_without_a_context_goes_out_too(language: Language, stack: Stack) -> None:
    since = time.time_ns()
    topic = f"sensors/{language.name}-001/reading"
    language.publish(stack, OTEL_PROPAGATORS="none")

    def processed() -> list[Span]:
        ids = stack.viewer.trace_ids(since, time.time_ns(), ("messaging.destination.name", topic))
        return [span for name in ids for span in stack.viewer.trace(name) if span.service == "consumer"]

    process = eventually(lambda: [span for span in processed() if span.kind == "Consumer"])[0]
    assert (process.parent_id, process.attributes["mqtt.missing_context_reason"]) == (None, "absent")


@contextmanager
def producer(stack: Stack) -> Iterator[mqtt.Client]:
    settings = stack.settings
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.username_pw_set(settings.mqtt_operator_username, settings.mqtt_operator_password.get_secret_value())
    client.connect("127.0.0.1", settings.mqtt_port)
    client.loop_start()
    yield client
    client.disconnect()
    client.loop_stop()


def understood(fields: Mapping[str, str]) -> dict[str, Any]:
    """The context that a subscriber has read, from the fields that it would pass on."""
    pairs = [entry.split(";")[0].strip().split("=", 1) for entry in fields.get("baggage", "").split(",") if entry]
    found: dict[str, Any] = {"baggage": dict(pairs)}
    if not (traceparent := fields.get("traceparent")):
        return found | {"missing_context": True}
    _, trace_id, span_id, flags = traceparent.split("-")
    tracestate = re.sub(r"\s", "", fields.get("tracestate", ""))
    return found | {
        "trace_id": trace_id,
        "span_id": span_id,
        "sampled": int(flags, 16) % 2 == 1,
        "tracestate": tracestate,
    }


def wanted(vector: Mapping[str, Any]) -> dict[str, Any]:
    """The result that a vector requires; it requires a reason, but no particular one."""
    expected = dict(vector["expected"])
    return expected | ({"missing_context": True} if "missing_context" in expected else {})


def test_a_subscriber_makes_of_user_properties_what_the_vectors_say(language: Language, stack: Stack) -> None:
    topic = f"sensors/vectors-{language.name}/reading"
    found: dict[str, dict[str, Any]] = {}
    with language.subscribed(stack, topic, len(VECTORS)) as lines, producer(stack) as client:
        for vector in VECTORS:
            properties = Properties(PacketTypes.PUBLISH)
            if vector["user_properties"]:
                properties.UserProperty = [tuple(pair) for pair in vector["user_properties"]]
            client.publish(topic, json.dumps(reading()), qos=1, properties=properties).wait_for_publish(10)
        for vector in VECTORS:
            found[vector["name"]] = understood(json.loads(next(lines)))
    different = {
        vector["name"]: found[vector["name"]]
        for vector in VECTORS
        if {name: found[vector["name"]].get(name) for name in wanted(vector)} != wanted(vector)
    }
    known = {vector: value for (name, vector), value in DIFFERENT.items() if name == language.name}
    assert different == known, json.dumps(different, indent=2)
    assert [vector for vector in known if f"`{vector}`" not in language.page] == []


FILES = files_of_the_project("interop/*")


@pytest.mark.parametrize("program", [path for path in FILES if path.suffix in PROGRAMS], ids=name_of)
def test_a_program_is_short_enough_to_be_read(program: Path) -> None:
    assert len(program.read_text().splitlines()) <= 60


@pytest.mark.parametrize("lock", [path for path in FILES if path.name == "package-lock.json"], ids=name_of)
def test_a_lock_file_names_no_address(lock: Path) -> None:
    packages = json.loads(lock.read_text())["packages"]
    assert all("resolved" not in package for package in packages.values())
    assert all("integrity" in package for name, package in packages.items() if name)
