import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from consumer.echo import Echo
from consumer.settings import Settings
from mqtt_delivery import Message


class Answer(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the library's name)
        pass


def test_what_the_environment_says_of_the_way_to_echo_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with HTTPServer(("127.0.0.1", 0), Answer) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.server_port}")
        monkeypatch.setenv("NO_PROXY", "")
        # This name does not exist, so the request works only through the proxy.
        monkeypatch.setenv("ECHO_URL", "http://echo.invalid/echo")
        echo = Echo(Settings())
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        echo.take(Message("sensors/sensor-001/reading", b"{}", None))
        proxy.shutdown()
