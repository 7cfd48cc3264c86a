"""The package as it is published, and the programs of its README."""

import re
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from delivery_harness import Broker, connected, eventually, publish
from uv import find_uv_bin

import mqtt_delivery

PACKAGE = Path(__file__).parents[1]
PROJECT = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
CONSUMER, PUBLISHER = re.findall(r"```python\n(.*?)```", (PACKAGE / "README.md").read_text(), re.DOTALL)


class Server(BaseHTTPRequestHandler):
    bodies: list[bytes]

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(422 if self.bodies[-1] == b"bad" else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the library's name)
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    Server.bodies = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_the_consumer_of_the_readme(broker: Broker, server: ThreadingHTTPServer) -> None:
    program = CONSUMER.replace("1883", str(broker.port)).replace("localhost:8080", f"127.0.0.1:{server.server_port}")
    program = program.replace("sensors/+/reading", "readme/+/reading").replace("localhost", "127.0.0.1")
    with (
        connected(broker, "dead-letter/#") as (client, dead),
        subprocess.Popen([sys.executable, "-c", program]) as process,
    ):
        try:
            eventually(lambda: publish(client, "readme/1/reading", b"first") or Server.bodies)
            publish(client, "readme/1/reading", b"bad")
            eventually(lambda: [letter for letter in dead if letter.payload == b"bad"])
        finally:
            process.kill()


def test_the_publisher_of_the_readme(broker: Broker, tmp_path: Path) -> None:
    program = PUBLISHER.replace("1883", str(broker.port)).replace("localhost", "127.0.0.1")
    with connected(broker, "sensors/1/reading") as (_, received):
        subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=30)
        eventually(lambda: [message.payload for message in received] == [b"20.5"])
    assert (tmp_path / "readings.db").exists()


def test_the_wheel_holds_what_it_should(tmp_path: Path) -> None:
    build = [find_uv_bin(), "--quiet", "build", "--no-build-isolation", "--python", sys.executable]
    subprocess.run([*build, "--out-dir", str(tmp_path), str(PACKAGE)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert f"-{mqtt_delivery.__version__}-" in wheel.name
    assert "mqtt_delivery/py.typed" in names
    assert [name for name in names if name.endswith("licenses/LICENSE")]


def test_it_depends_on_nothing_of_this_workspace_but_the_instrumentation() -> None:
    names = {re.split(r"[ <>~=]", requirement)[0] for requirement in PROJECT["dependencies"]}
    assert names == {"opentelemetry-api", "opentelemetry-instrumentation-paho-mqtt", "paho-mqtt", "tenacity"}
