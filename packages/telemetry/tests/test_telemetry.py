"""Each test starts its own process, because providers can be set only once in a process."""

import json
import os
import re
import socket
import subprocess
import sys
import time

import pytest

PROGRAM = """
import logging
from opentelemetry import trace
from telemetry import setup_telemetry, shutdown_telemetry
setup_telemetry("producer")
with trace.get_tracer("test").start_as_current_span("work"):
    logging.getLogger("test").info("at work")
shutdown_telemetry()
"""


HOSTILE = """
import logging
from telemetry import setup_telemetry, shutdown_telemetry
setup_telemetry("producer")
log = logging.getLogger("test")
log.info("%s", "x\\n2026-01-01 INFO forged\\x1b[2J\\u202e\\ud800")
log.info("long %s", 100_000 * "y")
try:
    raise ValueError("z\\n2026-01-01 INFO forged\\r\\x1b[2J" + 1000 * "\\nmore")
except ValueError:
    log.exception("failed")
shutdown_telemetry()
"""


def run(program: str = PROGRAM, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    off = {"OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**clean, **off, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_console_exporter_prints_the_span_with_the_services_resource() -> None:
    done = run(OTEL_TRACES_EXPORTER="console", OTEL_RESOURCE_ATTRIBUTES="site.id=hall,service.namespace=mine")
    assert done.returncode == 0, done.stderr
    span = json.loads(done.stdout)
    resource = span["resource"]["attributes"]
    assert span["name"] == "work"
    assert resource["service.name"] == "producer"
    assert resource["service.version"] == "0.1.0"
    assert resource["service.instance.id"]
    assert (resource["site.id"], resource["service.namespace"]) == ("hall", "mine")
    trace_id = span["context"]["trace_id"].removeprefix("0x")
    assert f"INFO test trace_id={trace_id} at work" in done.stderr


def test_a_log_record_carries_trace_and_span_id() -> None:
    done = run(OTEL_TRACES_EXPORTER="none", OTEL_LOGS_EXPORTER="console")
    record = json.loads(done.stdout)
    assert record["body"] == "at work"
    assert int(record["trace_id"], 16)
    assert int(record["span_id"], 16)


def test_a_thread_waits_a_tenth_of_pythons_default_for_its_turn() -> None:
    done = run(
        "import sys; from telemetry import setup_telemetry\nsetup_telemetry('producer')\nprint(sys.getswitchinterval())"
    )
    assert float(done.stdout) == pytest.approx(0.0005)


def test_what_a_stranger_has_sent_is_part_of_one_line_and_bounded() -> None:
    done = run(HOSTILE, OTEL_TRACES_EXPORTER="none", OTEL_LOGS_EXPORTER="console")
    lines = done.stderr.splitlines()
    assert all(map(str.isprintable, lines))
    assert max(map(len, lines)) < 5000
    assert len(lines) < 250
    records = [line for line in lines if not line.startswith("  ")]
    texts = [line.partition("trace_id=0 ")[2] for line in records]
    assert texts[0] == r"x\n2026-01-01 INFO forged\x1b[2J\u202e\ud800"
    assert texts[1].endswith("yyy... (100005 characters)")
    assert texts[2:] == ["failed"]
    assert any(line.startswith("  ValueError: z") for line in lines)
    # The backend gets the same text.
    bodies = [json.loads(record)["body"] for record in re.split(r"(?<=^})\n", done.stdout.strip(), flags=re.M)]
    assert bodies == texts


def test_an_unknown_exporter_is_one_line_and_no_traceback() -> None:
    done = run(OTEL_TRACES_EXPORTER="nowhere")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "nowhere" in line
    assert "OTEL_" in line


def test_the_shutdown_ends_though_the_collector_never_answers() -> None:
    with socket.socket() as hanging:
        hanging.bind(("127.0.0.1", 0))
        hanging.listen()
        started = time.monotonic()
        done = run(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{hanging.getsockname()[1]}")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 8


def test_without_a_collector_the_program_ends_well() -> None:
    done = run(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1")
    assert done.returncode == 0, done.stderr
