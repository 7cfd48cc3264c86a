"""``make trace`` and ``make watch`` show the traces of the backend in 80 columns."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import requests
from rich.cells import cell_len

from harness import Stack, eventually, reading
from stack.part import local_url
from stack.settings import ROOT

LONG_TOPIC = f"sensors/{'legacy-' * 30}001/reading"


def in_80_columns(output: str) -> bool:
    return max(map(cell_len, output.splitlines())) <= 80 and "\x1b" not in output


def test_trace_shows_the_last_reading_with_its_logs(stack: Stack) -> None:
    # Other tests send readings without a context to this stack.
    assert stack.run("verify").returncode == 0
    done = stack.run("trace")
    assert done.returncode == 0, done.stderr
    assert in_80_columns(done.stdout)
    shape = (
        r"trace [0-9a-f]{32}  \d\d:\d\d:\d\d, [\d.]+ ms\n"
        r"└── publish (sensors/\S+)  PRODUCER producer [\d.]+ ms\n"
        r"    └── process \1  CONSUMER consumer [\d.]+ ms\n"
        r"        └── POST  CLIENT consumer [\d.]+ ms\n"
        r"            └── POST /echo  SERVER echo [\d.]+ ms\n"
        r"  \+[\d.]+ ms INFO consumer processed reading "
    )
    assert re.match(shape, done.stdout), done.stdout


def test_trace_finds_a_reading_by_its_trace_id_and_by_its_message_id(stack: Stack) -> None:
    verified = stack.run("verify").stdout
    trace_id = re.findall("[0-9a-f]{32}", verified)[0]
    message_id = next(span for span in stack.viewer.trace(trace_id)).attributes["messaging.message.id"]
    for wanted in (trace_id, trace_id.upper(), str(message_id)):
        assert f"trace {trace_id} " in stack.run("trace", wanted).stdout


def test_trace_shows_a_lost_context_and_folds_a_long_topic(stack: Stack) -> None:
    legacy = reading(device_id="legacy-001")
    message_id = str(legacy["message_id"])
    stack.publish_with_mosquitto_pub(LONG_TOPIC, json.dumps(legacy), "-V", "mqttv311")
    stack.spans_of("messaging.message.id", message_id, count=3, since=0)
    done = stack.run("trace", message_id)
    assert in_80_columns(done.stdout)
    assert "mqtt.missing_context=true mqtt.missing_context_reason=absent" in done.stdout


def test_trace_shows_why_a_reading_failed(stack: Stack) -> None:
    stack.publish_with_mosquitto_pub("sensors/broken-001/reading", '{"message_id": "broken-by-test"}')
    stack.spans_of("messaging.message.id", "broken-by-test", count=3, since=0)
    done = stack.run("trace", "broken-by-test")
    assert "error 422: echo answered 422" in done.stdout
    assert "messaging.mqtt.dead_letter=dead-letter/sensors/broken-001/reading" in done.stdout
    assert in_80_columns(done.stdout)


def test_trace_shows_the_batch_that_a_reading_was_processed_in(new_stack: Callable[..., Stack]) -> None:
    stack = new_stack(BATCH_SIZE="3", WORKERS="1", BATCH_SECONDS="30", INTERVAL_SECONDS="0.3")
    stack.up()

    def linked() -> tuple[str, str] | None:
        # The producer's spans may arrive after the consumer's spans, which have links to them.
        arrived = stack.viewer.trace_ids(0, time.time_ns())
        for trace_id in arrived:
            for span in stack.viewer.trace(trace_id):
                if span.links and span.links[0][0] in set(arrived) - {trace_id}:
                    return trace_id, span.links[0][0]
        return None

    batch, published = eventually(linked) or ("", "")
    done = stack.run("trace", published)
    assert f"trace {published} " in done.stdout
    assert f"trace {batch} " in done.stdout
    assert f"link to trace {published}" in done.stdout

    # The backend is emptied when the producer has stopped and its readings have arrived.
    for part in ("producer", "consumer"):
        stack.stop_part(part)
    forget = {"jsonrpc": "2.0", "id": 1, "method": "clearTraces"}
    eventually(
        lambda: (
            requests.post(local_url(stack.settings.viewer_port, "/rpc"), json=forget, timeout=5).ok
            and "holds no trace of a reading yet; `make verify` makes one" in stack.run("trace").stderr
        )
    )
    stack.runtime.down()


def test_when_nothing_is_there_one_line_says_so(stack: Stack, new_stack: Callable[..., Stack]) -> None:
    for wanted in ("0" * 32, "no-such-reading", "'; drop table spans", "NULL"):
        done = stack.run("trace", wanted)
        line = f"error: the backend holds no trace {wanted}, and no reading with that message_id\n"
        assert (done.returncode, done.stdout, done.stderr) == (1, "", line)

    stopped = new_stack()
    for command in ("trace", "watch"):
        done = stopped.run(command)
        assert (done.returncode, done.stderr) == (1, "error: the stack is not up; start it with `make up`\n")


def test_watch_shows_each_new_trace_until_interrupted(stack: Stack, tmp_path: Path) -> None:
    output = tmp_path / "watched"
    with output.open("w") as file:
        watching = subprocess.Popen(
            [sys.executable, "-m", "stack", "watch"],
            cwd=ROOT,
            env=stack.environment,
            stdout=file,
            stderr=file,
            # The tests may run as a background job of a shell, whose child processes ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    try:
        eventually(lambda: "Waiting for traces" in output.read_text())
        trace_id = re.findall("[0-9a-f]{32}", stack.run("verify").stdout)[0]
        eventually(lambda: f"trace {trace_id} " in output.read_text())
    finally:
        watching.send_signal(signal.SIGINT)
    assert watching.wait(10) == 0
    text = output.read_text()
    assert text.count(f"trace {trace_id} ") == 1
    assert "Traceback" not in text
    assert in_80_columns(text)


def test_on_a_terminal_there_is_colour(stack: Stack) -> None:
    master, slave = os.openpty()
    environment = {**stack.environment, "TERM": "xterm-256color", "COLUMNS": "80"}
    environment.pop("NO_COLOR", None)
    subprocess.run([sys.executable, "-m", "stack", "trace"], cwd=ROOT, env=environment, stdout=slave, check=True)
    os.close(slave)
    seen = os.read(master, 100_000).decode()
    os.close(master)
    assert "\x1b[36mPRODUCER producer" in seen
