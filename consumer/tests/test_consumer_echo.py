import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from consumer.echo import Echo
from consumer.settings import Settings


class Answer(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the library's name)
        pass


def test_a_proxy_of_the_environment_is_not_on_the_way_to_echo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "")
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("ECHO_URL", f"http://127.0.0.1:{server.server_port}/echo")
        monkeypatch.setenv("RETRY_SECONDS", "0")
        Echo(Settings(), threading.Event()).send(b"{}", None)
        server.shutdown()
