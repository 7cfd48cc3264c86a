import socket
import time
from dataclasses import dataclass
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from service import BrokerSettings, serve_health


@dataclass
class Client:
    live: bool = True
    healthy: bool = True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answer(port: int, path: str) -> tuple[int, bytes]:
    try:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return response.status, response.read()
    except HTTPError as error:
        return error.code, error.read()


def test_probes_answer_what_is_so_now() -> None:
    client, port = Client(), free_port()
    serve_health(BrokerSettings(health_port=port), client)
    assert [answer(port, path) for path in ("/livez", "/readyz")] == [(200, b"ok\n")] * 2
    client.healthy = False
    assert (answer(port, "/livez")[0], answer(port, "/readyz")) == (200, (503, b"not ok\n"))
    client.live = False
    assert answer(port, "/livez") == (503, b"not ok\n")
    assert answer(port, "/")[0] == 404


def test_who_sends_nothing_holds_nobody_up() -> None:
    port = free_port()
    serve_health(BrokerSettings(health_port=port), Client())
    with socket.create_connection(("127.0.0.1", port)) as silent:
        started = time.monotonic()
        assert answer(port, "/livez")[0] == 200
        silent.settimeout(10)
        assert silent.recv(1) == b""
        assert time.monotonic() - started < 5


def test_without_a_port_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    serve_health(BrokerSettings(), Client())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit, match="2"):
            serve_health(BrokerSettings(health_port=port), Client())
    line = capsys.readouterr().err
    assert line.startswith(f"HEALTH_HOST is '127.0.0.1' and HEALTH_PORT {port}; nobody can listen there:")
    assert line.count("\n") == 1
