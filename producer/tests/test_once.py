"""``--once``: publishes one reading, as ``make verify`` does."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from delivery_harness import Broker, connected, eventually

HANDSHAKE_SECONDS = 0.5


@contextmanager
def slow_to_shake_hands(broker: Broker) -> Iterator[int]:
    """The port of a proxy to the broker that delays the broker's first packet, the CONNACK, and no other."""

    def forward(source: socket.socket, target: socket.socket, late_seconds: float = 0.0) -> None:
        while data := source.recv(65_536):
            time.sleep(late_seconds)
            late_seconds = 0.0
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)

    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            inner, _ = server.accept()
            with inner, socket.create_connection(("127.0.0.1", broker.port)) as outer:
                back = threading.Thread(target=forward, args=(outer, inner, HANDSHAKE_SECONDS))
                back.start()
                forward(inner, outer)
                back.join()

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join(10)


def once(port: int, **values: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "MQTT_"))}
    command = [sys.executable, "-m", "producer", "--once"]
    environment = kept | {"MQTT_PORT": str(port)} | values
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)


def test_a_reading_that_the_broker_refuses_is_a_failure(tmp_path: Path) -> None:
    own_broker = Broker(tmp_path)
    (tmp_path / "acl").write_text("pattern read #\n")
    with own_broker as broker:
        done = once(broker.port, OTEL_SDK_DISABLED="true")
    assert "the broker refuses a message on sensors/sensor-001/reading: Not authorized (0x87)" in done.stderr
    assert done.returncode == 1


def test_its_publish_span_holds_no_handshake(tmp_path: Path) -> None:
    only_traces = {"OTEL_TRACES_EXPORTER": "console", "OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}
    own_broker = Broker(tmp_path)
    # Without this line, clients with a user name may do nothing.
    (tmp_path / "acl").write_text("pattern readwrite #\n")
    with (
        own_broker as broker,
        connected(broker, "sensors/#") as (_, received),
        slow_to_shake_hands(broker) as port,
    ):
        done = once(port, **only_traces)
        assert done.returncode == 0, done.stderr
        eventually(lambda: len(received) == 1)
    printed = [json.loads(span) for span in re.findall(r"^\{\n.*?^\}", done.stdout, re.M | re.S)]
    (publish,) = (span for span in printed if span["kind"] == "SpanKind.PRODUCER")
    started, ended = (datetime.fromisoformat(publish[name]) for name in ("start_time", "end_time"))
    assert (ended - started).total_seconds() < HANDSHAKE_SECONDS
