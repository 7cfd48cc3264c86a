"""``make doctor`` finds what is wrong with a stack, and says how to fix it."""

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import pytest
import requests
from pydantic import SecretStr

from harness import Stack, eventually, free_ports, reading
from stack.doctor import broker, scout
from stack.local import port_is_free
from stack.part import local_url
from stack.settings import SCOUT_VARIABLES

TITLES = [
    "parts",
    "protocol",
    "user properties",
    "QoS",
    "sensor clocks",
    "SCOUT_* values",
    "token endpoint",
    "gateway",
    "clock",
    "export",
    "missing context",
]
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def examined(stack: Stack) -> subprocess.CompletedProcess[str]:
    """Runs the doctor, which must not print secrets."""
    done = stack.run("doctor")
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stdout.replace("the secret is wrong", "")
    return done


def findings(done: subprocess.CompletedProcess[str]) -> list[str]:
    found = [line for line in done.stdout.splitlines() if line.startswith("✗ ")]
    assert all(" Fix: " in line for line in found), found
    assert done.returncode == (1 if found else 0), done.stdout + done.stderr
    return found


@pytest.fixture(scope="module")
def patient(new_shared_stack: Callable[..., Stack]) -> Stack:
    """A stack that most tests of this module share; each repairs what it broke."""
    stack = new_shared_stack(INTERVAL_SECONDS="1")
    stack.up()
    return stack


def test_a_healthy_stack_gets_a_line_for_each_check_and_exit_code_0(patient: Stack) -> None:
    # The first reading has arrived.
    assert patient.run("verify").returncode == 0
    done = examined(patient)
    assert findings(done) == []
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines[:-1]] == [f"✓ {title}" for title in TITLES]
    assert lines[-1] == "All is well."
    assert "✓ protocol: all clients of consumer, operator, producer, producer-once speak MQTT 5." in lines


# ---------------------------------------------------------------------- publishers


def publish(stack: Stack, name: str, ahead: timedelta = timedelta(), *options: str, **values: str) -> None:
    payload = reading(device_id=name, timestamp=f"{datetime.now(UTC) + ahead:%Y-%m-%dT%H:%M:%SZ}", **values)
    stack.publish_with_mosquitto_pub(f"sensors/{name}/reading", json.dumps(payload), *options)


@contextmanager
def publishing(publish_each: Callable[[], None]) -> Iterator[None]:
    """Publishes over and over, until the end of the block."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.2):
            publish_each()

    worker = threading.Thread(target=run)
    worker.start()
    try:
        yield
    finally:
        stop.set()
        worker.join()


def test_what_the_broker_has_dropped_is_said(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    (tmp_path / "mosquitto.conf").write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 5\nlog_dest stderr\n"
    )
    log = tmp_path / "log"
    with (
        log.open("w") as errors,
        subprocess.Popen(["mosquitto", "-c", str(tmp_path / "mosquitto.conf")], stderr=errors) as mosquitto,
    ):
        try:
            eventually(lambda: not port_is_free(port))
            options = ["-p", str(port), "-t", "a", "-q", "1"]
            subprocess.run(["mosquitto_sub", *options, "-i", "away", "-c", "-E"], check=True, timeout=20)
            subprocess.run(["mosquitto_pub", *options, "-l"], input="x\n" * 100, text=True, check=True, timeout=20)
            (found,) = eventually(lambda: list(broker.dropped(log.read_text())))
        finally:
            mosquitto.terminate()
    assert "the broker has dropped messages for away: the queue was full" in found.says


MQTT_3 = ("-V", "mqttv311", "-i", "legacy-meter")
MQTT_5 = ("-V", "mqttv5", "-D", "publish", "user-property", "traceparent")


@pytest.fixture(scope="module")
def with_bad_publishers(patient: Stack) -> str:
    """The doctor's output while publishers of every bad kind are running."""

    def publish_each() -> None:
        publish(patient, "legacy", timedelta(), *MQTT_3)
        publish(patient, "hasty", timedelta(), *MQTT_5, TRACEPARENT, "-q", "0")
        publish(patient, "wrong", timedelta(), *MQTT_5, "00-nonsense-01")
        publish(patient, "double", timedelta(), *MQTT_5, TRACEPARENT, *MQTT_5[2:], TRACEPARENT[:-1] + "0")
        publish(patient, "shouting", timedelta(), *MQTT_5[:-1], "TRACEPARENT", TRACEPARENT)
        publish(patient, "early", timedelta(hours=1), *MQTT_5, TRACEPARENT)

    with publishing(publish_each):
        # The doctor looks at the broker as it is now, and at the spans that have arrived: here, the first have.
        patient.spans_of("messaging.destination.name", "sensors/legacy/reading", count=1, since=0)
        done = examined(patient)
    assert findings(done)
    return done.stdout


@pytest.mark.parametrize(
    ("finding", "where", "fix"),
    [
        ("✗ protocol: not on MQTT 5: ", "legacy-meter (user operator, MQTT 3.1.1)", "connect with protocol=MQTTv5"),
        (
            " without a traceparent: ",
            "sensors/legacy/reading.",
            "set UserProperty on a Properties(PacketTypes.PUBLISH)",
        ),
        (" not W3C Trace Context: ", "sensors/wrong/reading.", "let the propagator's inject() write it"),
        (" another spelling of traceparent: ", "sensors/shouting/reading.", "write the name in lower case"),
        (" more than one traceparent: ", "sensors/double/reading.", "make new Properties for each publish"),
        (" came with QoS 0, ", "sensors/hasty/reading.", "publish with QoS 1"),
        ("✗ sensor clocks: ", "s ahead of this machine's time: sensors/early/reading.", "set the sensor's clock"),
        (" roots of the consumer with mqtt.missing_context=true (", "sensors/legacy/reading", "look at the publisher"),
    ],
    ids=["protocol", "absent", "invalid", "wrong case", "duplicate", "qos", "sensor clock", "missing context"],
)
def test_a_bad_publisher_is_found(with_bad_publishers: str, finding: str, where: str, fix: str) -> None:
    lines = [line for line in with_bad_publishers.splitlines() if finding in line]
    assert len(lines) == 1, with_bad_publishers
    said, _, how = lines[0].partition(" Fix: ")
    assert where in said
    assert fix in how


def test_a_context_in_the_payload_is_no_finding(patient: Stack) -> None:
    patient.stop_part("producer")
    with publishing(lambda: publish(patient, "envelope", timedelta(), *MQTT_3, traceparent=TRACEPARENT)):
        results = list(broker.examine(patient.runtime, patient.settings))
    assert patient.run("up").returncode == 0
    assert all(result.healthy for result in results), results
    said = [result.says for result in results]
    assert said[0].endswith("are not on MQTT 5, but the context is in the payload.")
    assert re.fullmatch(r"each of (\d+) readings carries one valid traceparent \(\1 in the payload\)\.", said[1])


# ---------------------------------------------------------------------- parts that are away


@contextmanager
def stopped(stack: Stack, *parts: str) -> Iterator[None]:
    for part in parts:
        stack.stop_part(part)
    try:
        yield
    finally:
        assert stack.run("up").returncode == 0


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (
            ["issuer", "viewer", "producer"],
            [
                "parts: issuer is stopped. Fix: `make up` starts it; `make logs PART=issuer`",
                "token endpoint: http://127.0.0.1:{ISSUER_PORT}/oauth2/token cannot be reached: nothing listens there",
                "backend: the viewer does not answer at http://127.0.0.1:{VIEWER_PORT}",
                "user properties: no reading arrived within 3 s.",
            ],
        ),
        (
            ["gateway", "echo"],
            [
                "parts: gateway is stopped.",
                "parts: echo is stopped.",
                "gateway: http://127.0.0.1:{GATEWAY_PORT}/v1/traces cannot be reached: nothing listens there",
                "export: the Collector keeps ",
            ],
        ),
        (
            ["mosquitto", "collector"],
            [
                "parts: mosquitto is stopped.",
                "user properties: the broker at mqtt://127.0.0.1:{MQTT_PORT} does not answer",
                "collector: the Collector does not answer at http://127.0.0.1:{COLLECTOR_METRICS_PORT}/metrics.",
            ],
        ),
    ],
)
def test_what_is_away_is_found_and_what_it_breaks(patient: Stack, parts: list[str], expected: list[str]) -> None:
    with stopped(patient, *parts):
        found = findings(examined(patient))
    for text in expected:
        assert any(line.startswith(f"✗ {text.format(**patient.values)}") for line in found), found


@pytest.mark.alone
def test_parts_that_hang_do_not_hold_it_up(patient: Stack) -> None:
    pids = [patient.pid(part) for part in ("mosquitto", "issuer", "collector", "viewer")]
    assert all(pids)  # 0 would be this test itself
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        found = findings(examined(patient))
        assert time.monotonic() - started < 30  # 15 s on an idle machine
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    assert {line.split(":")[0] for line in found} >= {
        "✗ parts",
        "✗ user properties",
        "✗ token endpoint",
        "✗ collector",
        "✗ backend",
    }, found
    # The parts continue as if nothing had happened.
    eventually(lambda: patient.run("verify").returncode == 0)


def test_without_a_stack_one_line_says_so(new_stack: Callable[..., Stack]) -> None:
    done = new_stack().run("doctor")
    assert (done.returncode, done.stderr) == (1, "error: the stack is not up; start it with `make up`\n")


# ---------------------------------------------------------------------- Scout


class FakeScout:
    """A Scout on loopback, which answers as the test tells it to."""

    def __init__(self) -> None:
        self.clock_ahead = timedelta()
        self.token_answer: tuple[int, object] = (200, {"access_token": str(uuid4()), "expires_in": 3600})
        self.export_status = 200
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, body = fake.token_answer if self.path == "/token" else (fake.export_status, {})
                self.send_response_only(status)
                self.send_header("Date", format_datetime(datetime.now(UTC) + fake.clock_ahead, usegmt=True))
                self.send_header("Content-Type", "application/json")
                content = json.dumps(body).encode()
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        return Handler


@pytest.fixture(scope="module")
def fake_scout() -> Iterator[FakeScout]:
    fake = FakeScout()
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


@pytest.fixture(scope="module")
def customer(new_shared_stack: Callable[..., Stack], fake_scout: FakeScout) -> Stack:
    """A stack that sends to that Scout."""
    stack = new_shared_stack(
        INTERVAL_SECONDS="1",
        SCOUT_CLIENT_ID="customer-1",
        SCOUT_CLIENT_SECRET="very-secret",
        SCOUT_TOKEN_URL=f"{fake_scout.url}/token",
        SCOUT_OTLP_ENDPOINT=f"{fake_scout.url}/otlp",
    )
    stack.up()
    return stack


def test_with_scout_a_healthy_stack_is_healthy(customer: Stack) -> None:
    done = examined(customer)
    assert findings(done) == []
    assert "✓ SCOUT_* values: all four are set." in done.stdout


@contextmanager
def answering(fake_scout: FakeScout, attribute: str, value: object) -> Iterator[None]:
    before = getattr(fake_scout, attribute)
    setattr(fake_scout, attribute, value)
    try:
        yield
    finally:
        setattr(fake_scout, attribute, before)


@pytest.mark.parametrize(
    ("attribute", "value", "title", "says", "fix"),
    [
        (
            "clock_ahead",
            timedelta(minutes=10),
            "clock",
            "this machine's clock is (599|600) s behind that of ",
            "by NTP",
        ),
        (
            "clock_ahead",
            -timedelta(minutes=10),
            "clock",
            "this machine's clock is (600|601) s ahead of that of ",
            "by NTP",
        ),
        (
            "token_answer",
            (401, {"error": "invalid_client"}),
            "token endpoint",
            r"/token does not know this client id, or the secret is wrong \(invalid_client\)\.$",
            "copy SCOUT_CLIENT_ID and SCOUT_CLIENT_SECRET again",
        ),
        (
            "token_answer",
            (400, {"error": "invalid_scope"}),
            "token endpoint",
            "refuses: 'invalid_scope'",
            "ask the people",
        ),
        ("token_answer", (404, []), "token endpoint", "answers 404 without a token", "is SCOUT_TOKEN_URL right"),
        ("token_answer", (200, "hello"), "token endpoint", "answers 200 without a token", "is SCOUT_TOKEN_URL right"),
        ("export_status", 401, "gateway", r"refuses the token \(401\)", "belong together"),
        ("export_status", 404, "gateway", "answers 404 to an export", "the base address, without /v1/traces"),
    ],
)
def test_what_scout_answers_is_told_in_plain_words(
    customer: Stack, fake_scout: FakeScout, attribute: str, value: object, title: str, says: str, fix: str
) -> None:
    with answering(fake_scout, attribute, value):
        (found,) = [result for result in scout.examine(customer.runtime, customer.settings) if not result.healthy]
    assert found.title == title
    assert re.search(says, found.says), found
    assert fix in found.fix


def test_a_wrong_clock_and_data_that_scout_refused_for_good_are_findings(
    customer: Stack, fake_scout: FakeScout
) -> None:
    with answering(fake_scout, "export_status", 400):
        eventually(lambda: "not retryable" in customer.runtime.log_text("collector"))
    with answering(fake_scout, "clock_ahead", timedelta(hours=1)):
        found = findings(examined(customer))
    assert [line.split(":")[0] for line in found] == ["✗ clock", "✗ export"], found
    assert found[1].startswith("✗ export: the Collector has dropped ")


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        (
            {"scout_client_id": "<your client id>", "scout_client_secret": SecretStr("changeme")},
            "SCOUT_CLIENT_ID, SCOUT_CLIENT_SECRET look like placeholders.",
        ),
        (
            {"scout_client_id": "customer-2"},
            "the Collector runs with values that differ from those set now: SCOUT_CLIENT_ID.",
        ),
        (dict.fromkeys(map(str.lower, SCOUT_VARIABLES)), "SCOUT_CLIENT_ID, SCOUT_CLIENT_SECRET."),
    ],
    ids=["placeholders", "not handed over", "taken away"],
)
def test_values_that_cannot_be_right_are_found(customer: Stack, changed: dict[str, object], found: str) -> None:
    results = list(scout.values(customer.runtime, customer.settings.model_copy(update=changed)))
    assert [result for result in results if result.says.endswith(found) and "`make up`" in result.fix], results
    assert "changeme" not in str(results)


def test_a_half_filled_set_of_values_is_refused_by_name(customer: Stack) -> None:
    before = dict(customer.environment)
    del customer.environment["SCOUT_CLIENT_SECRET"]
    try:
        done = customer.run("doctor")
    finally:
        customer.environment = before
    assert done.returncode == 2
    assert done.stderr.startswith("SCOUT_CLIENT_SECRET not set, but ")


def test_a_wrong_secret_is_found_where_the_issuer_checks_it(patient: Stack, new_stack: Callable[..., Stack]) -> None:
    settings = patient.settings
    stack = new_stack(
        SCOUT_CLIENT_ID=settings.local_scout_client_id,
        SCOUT_CLIENT_SECRET="wrong-secret",
        SCOUT_TOKEN_URL=local_url(settings.issuer_port, "/oauth2/token"),
        SCOUT_OTLP_ENDPOINT=local_url(settings.gateway_port),
    )
    stack.up()
    found = findings(examined(stack))
    stack.runtime.down()
    assert [line for line in found if "or the secret is wrong (invalid_client)" in line], found
    assert [line for line in found if line.startswith("✗ export: the Collector ")], found


# ---------------------------------------------------------------------- the Collector


def test_a_queue_that_overflows_is_found(patient: Stack) -> None:
    """The queue holds 200,000 items; a larger batch does not fit."""
    records = {"resourceLogs": [{"scopeLogs": [{"logRecords": [{}] * 120_000}]}]}
    url = local_url(patient.settings.otlp_http_port, "/v1/logs")
    with stopped(patient, "gateway"):
        answers = [requests.post(url, json=records, timeout=30).status_code for _ in range(2)]
        # What does not fit is refused, so a service sends it again.
        assert answers == [200, 503]
        found = findings(examined(patient))
    assert [line for line in found if line.startswith("✗ export: the queue holds 1")], found
    assert [line for line in found if line.startswith("✗ export: the Collector has dropped 1")], found
