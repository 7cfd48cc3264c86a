"""Echo against its own OpenAPI description, and against clients that are too large or too slow."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest
import requests
import schemathesis
import uvicorn
from hypothesis import settings

from echo.app import MAX_BODY_BYTES, app

schema = schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.mark.stack
@pytest.mark.timeout(600)
@schema.parametrize()
@settings(derandomize=True, max_examples=300, deadline=None)
def test_every_answer_is_as_described(case: schemathesis.Case) -> None:
    case.call_and_validate()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The URL of echo as it is served in the stack."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = uvicorn.Server(uvicorn.Config(app, log_config=None))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def test_a_body_that_is_too_large_is_refused(url: str) -> None:
    answer = requests.post(f"{url}/echo", data=b" " * (MAX_BODY_BYTES + 1), timeout=10)
    assert answer.status_code == 413


def test_a_body_that_says_it_is_small_is_still_measured(url: str) -> None:
    chunks = (b" " * 65_536 for _ in range(MAX_BODY_BYTES // 65_536 + 2))
    # The server may close the connection while the client still sends.
    with suppress(requests.ConnectionError):
        assert requests.post(f"{url}/echo", data=chunks, timeout=10).status_code == 413


def test_slow_clients_hold_nobody_up(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    slow = [socket.create_connection((host, int(port))) for _ in range(100)]
    try:
        for number, connection in enumerate(slow):
            # Half a header, or half a body, and then silence.
            head = b"POST /echo HTTP/1.1\r\nHost: echo\r\nContent-Length: 100\r\n"
            connection.sendall(head if number % 2 else head + b"\r\n{")
        assert requests.get(f"{url}/healthz", timeout=2).status_code == 200
    finally:
        for connection in slow:
            connection.close()
