"""A web page that a developer visits, or another stranger, can do nothing to the stack on the developer's machine.

A page of another origin can send requests like any program; the headers of the answer decide whether it may read the
answer (CORS, https://fetch.spec.whatwg.org/#http-cors-protocol). By DNS rebinding, a page gets the stack's own origin:
its domain resolves to 127.0.0.1, and only the Host header still shows its domain.
"""

import json
import re
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from http.client import HTTPResponse
from uuid import uuid4

import pytest
import requests

from harness import Stack, eventually, reading
from service.server import CONNECTIONS, REQUEST_SECONDS
from stack.part import local_url
from test_docker import LIST_TRACES

FOREIGN = "http://evil.example"


def page_asks(port: int, path: str, *, origin: str | None = None, host: str | None = None) -> requests.Response:
    """The answer to a page's request: a GET, or for the viewer's API a POST that needs no preflight request."""
    given = {"Origin": origin, "Host": host and f"{host}:{port}"}
    headers = {name: value for name, value in given.items() if value}
    if path == "/rpc":
        return requests.post(local_url(port, path), json=LIST_TRACES, headers=headers, timeout=5)
    return requests.get(local_url(port, path), headers=headers, timeout=5)


@pytest.mark.parametrize(
    ("port", "path"),
    [
        ("viewer_port", "/"),
        ("viewer_port", "/rpc"),
        ("echo_port", "/healthz"),
        ("echo_port", "/openapi.json"),
        ("issuer_port", "/.well-known/openid-configuration"),
    ],
)
def test_a_host_that_is_not_ours_is_refused(stack: Stack, port: str, path: str) -> None:
    number = getattr(stack.settings, port)
    assert page_asks(number, path, host="evil.example").status_code in (400, 403, 421)
    for ours in ("127.0.0.1", "localhost", "LOCALHOST"):
        assert page_asks(number, path, host=ours).status_code == 200


def test_a_page_of_another_origin_reads_no_trace(stack: Stack) -> None:
    port = stack.settings.viewer_port
    for foreign in (FOREIGN, "null", "https://127.0.0.1", f"http://127.0.0.1:{stack.settings.echo_port}"):
        answer = page_asks(port, "/rpc", origin=foreign)
        assert answer.status_code == 403, foreign
        assert "traceID" not in answer.text
        assert "Access-Control-Allow-Origin" not in answer.headers
    # The viewer's own page asks too.
    answer = page_asks(port, "/rpc", origin=local_url(port))
    assert answer.status_code == 200
    assert "traceID" in answer.text


def test_a_page_of_another_origin_is_not_told_that_it_may_send(stack: Stack) -> None:
    asked = {
        "Origin": FOREIGN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    for port, path in (
        (stack.settings.viewer_port, "/rpc"),
        (stack.settings.viewer_otlp_http_port, "/v1/traces"),
        (stack.settings.otlp_http_port, "/v1/traces"),
        (stack.settings.gateway_port, "/v1/traces"),
        (stack.settings.echo_port, "/echo"),
    ):
        answer = requests.options(local_url(port, path), headers=asked, timeout=5)
        assert "Access-Control-Allow-Origin" not in answer.headers, (port, path)


def test_a_page_of_another_origin_sends_no_span(stack: Stack) -> None:
    # Without a preflight request, a page may send only text.
    for port in (stack.settings.otlp_http_port, stack.settings.viewer_otlp_http_port):
        headers = {"Origin": FOREIGN, "Content-Type": "text/plain"}
        answer = requests.post(local_url(port, "/v1/traces"), data='{"resourceSpans": []}', headers=headers, timeout=5)
        assert answer.status_code == 415


def open_ports(stack: Stack) -> set[str]:
    """The Collector's extras whose ports accept connections."""
    settings = stack.settings
    ports = {
        "zipkin": settings.zipkin_receiver_port,
        "pprof": settings.collector_pprof_port,
        "zpages": settings.collector_zpages_port,
    }
    found: set[str] = set()
    for name, port in ports.items():
        with socket.socket() as connection:
            if connection.connect_ex(("127.0.0.1", port)) == 0:
                found.add(name)
    return found


def test_what_answers_whoever_asks_is_off(stack: Stack) -> None:
    assert open_ports(stack) == set()


def test_what_answers_whoever_asks_is_there_for_who_asks_for_it(new_stack: Callable[..., Stack]) -> None:
    stack = new_stack(COLLECTOR_EXTRAS="zpages, zipkin", DEVICES="1")
    stack.up()
    assert open_ports(stack) == {"zpages", "zipkin"}
    pages = requests.get(local_url(stack.settings.collector_zpages_port, "/debug/pipelinez"), timeout=5).text
    assert "zipkin" in pages
    assert stack.run("verify").returncode == 0


def is_open(connection: socket.socket) -> bool:
    """Tells whether the other end keeps a connection open without having answered."""
    try:
        return connection.recv(65_536) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


HEAD = b"POST /echo HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"


@pytest.mark.parametrize("part", ["echo", "issuer"])
@pytest.mark.parametrize("begun", [b"", HEAD, HEAD + b"\r\n{"], ids=["nothing", "half a head", "half a body"])
def test_who_is_slow_is_dropped_however_many_bytes_come(stack: Stack, part: str, begun: bytes) -> None:
    port = getattr(stack.settings, f"{part}_port")
    with socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(begun)
        slow.setblocking(False)

        def dropped() -> bool:
            # An occasional byte does not extend the wait.
            with suppress(ConnectionError):
                slow.send(b"x" if begun else b"")
            return not is_open(slow)

        eventually(dropped, REQUEST_SECONDS + 5)
    assert requests.get(local_url(port, "/healthz"), timeout=5).status_code == 200


def test_a_connection_that_was_used_is_dropped_too(stack: Stack) -> None:
    with socket.create_connection(("127.0.0.1", stack.settings.echo_port)) as slow:
        slow.settimeout(REQUEST_SECONDS + 5)
        slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        first = HTTPResponse(slow)
        first.begin()
        assert first.read() != b""
        assert first.status == 200
        slow.sendall(HEAD)
        assert slow.recv(1) == b""


def test_connections_are_bounded(stack: Stack) -> None:
    port = stack.settings.issuer_port
    with ExitStack() as held:
        connections = [
            held.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(2 * CONNECTIONS)
        ]
        for connection in connections:
            connection.setblocking(False)
        # Excess connections are closed at once, the others when their time is up.
        eventually(lambda: sum(map(is_open, connections)) <= 1.5 * CONNECTIONS, REQUEST_SECONDS - 1)
        eventually(lambda: not any(map(is_open, connections)), REQUEST_SECONDS + 10)
    assert requests.get(local_url(port, "/healthz"), timeout=5).status_code == 200


@pytest.fixture
def hostile(stack: Stack) -> str:
    """The consumer's log after messages that try to forge log lines."""
    begun = len(stack.runtime.log_text("consumer"))
    marks = [f"mark-{uuid4()}" for _ in HOSTILE_IDS]
    for mark, hostile_id in zip(marks, HOSTILE_IDS, strict=True):
        payload = json.dumps(reading(message_id=hostile_id, device_id=mark))
        stack.publish_with_mosquitto_pub(f"sensors/{mark}/reading", payload)
    options = ("-V", "mqttv5", "-D", "publish", "user-property", "baggage", "big=" + 60_000 * "x")
    stack.publish_with_mosquitto_pub("sensors/big/reading", json.dumps(reading(device_id="big")), *options)

    def logged() -> str:
        text = stack.runtime.log_text("consumer")[begun:]
        return text if all(mark in text for mark in marks) and "sensors/big/reading" in text else ""

    return eventually(logged)


HOSTILE_IDS = [
    "x\n2026-01-01 00:00:00,000 INFO forged trace_id=0 all is well",
    "x\r\x1b[2J\x1b]0;title\x07\x9b31m",
    "x\u2028\u202eflipped\x7f\x85",
    "x" * 50_000,
]


def test_what_a_message_holds_is_part_of_one_line_of_the_log(stack: Stack, hostile: str) -> None:
    assert "all is well" in hostile
    for line in hostile.removesuffix("\n").split("\n"):
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ (?!forged)\S+ trace_id=", line), line[:200]
        assert line.isprintable(), ascii(line)
        assert len(line) < 6000
    shown = stack.run("logs", "consumer").stdout
    assert all(line.isprintable() for line in shown.splitlines())
