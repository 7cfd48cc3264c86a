# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests: an in-memory backend, a Mosquitto of their own, clients connected to it."""

import socket
import subprocess
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.trace import Span, SpanKind
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

TIMEOUT_SECONDS = 20.0


class Recorder(SpanProcessor):
    """Counts the spans that start and keeps those that end; tests wait for them instead of sleeping."""

    def __init__(self) -> None:
        self.started = 0
        self.ended: list[ReadableSpan] = []
        self._changed = threading.Condition(threading.RLock())

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        """Counts the span."""
        with self._changed:
            self.started += 1

    def on_end(self, span: ReadableSpan) -> None:
        """Keeps the span."""
        with self._changed:
            self.ended.append(span)
            self._changed.notify_all()

    def wait_for(self, count: int, kind: SpanKind | None = None) -> list[ReadableSpan]:
        """Waits for ``count`` ended spans of a kind and returns them; fails when there are more."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.of_kind(kind)) >= count, TIMEOUT_SECONDS)
            spans = self.of_kind(kind)
        assert len(spans) == count, [span.name for span in spans]
        return spans

    def of_kind(self, kind: SpanKind | None) -> list[ReadableSpan]:
        """The spans of a kind that have ended so far."""
        with self._changed:
            return [span for span in self.ended if kind in (None, span.kind)]

    def published(self, count: int = 1) -> list[ReadableSpan]:
        """Waits for ``count`` publish spans and returns them."""
        return self.wait_for(count, SpanKind.PRODUCER)

    def processed(self, count: int = 1) -> list[ReadableSpan]:
        """Waits for ``count`` process spans and returns them."""
        return self.wait_for(count, SpanKind.CONSUMER)


@dataclass
class Broker:
    """A running Mosquitto. It refuses messages below ``forbidden/``."""

    port: int
    websockets_port: int


@dataclass
class Inbox:
    """A handler for received messages that tests can wait on."""

    messages: list[mqtt.MQTTMessage] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def __call__(self, client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        """Receives a message."""
        with self._changed:
            self.messages.append(message)
            self._changed.notify_all()

    def wait_for(self, count: int = 1) -> list[mqtt.MQTTMessage]:
        """Waits for ``count`` messages and returns all."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.messages) >= count, TIMEOUT_SECONDS), len(self.messages)
            return self.messages


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def accepts_connections(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    folder: Path = tmp_path_factory.mktemp("mosquitto")
    running = Broker(free_port(), free_port())
    (folder / "acl").write_text("topic readwrite #\ntopic deny forbidden/#\n")
    (folder / "mosquitto.conf").write_text(
        "user root\nallow_anonymous true\nlog_dest none\nset_tcp_nodelay true\n"
        # after a reconnect paho sends all unacknowledged messages at once, more than the broker allows by default
        "max_queued_messages 0\nmax_inflight_messages 0\n"
        f"acl_file {folder / 'acl'}\n"
        f"listener {running.port} 127.0.0.1\n"
        f"listener {running.websockets_port} 127.0.0.1\nprotocol websockets\n"
    )
    with subprocess.Popen(["mosquitto", "-c", str(folder / "mosquitto.conf")]) as process:
        pause = threading.Event()
        while not accepts_connections(running.port):
            assert process.poll() is None, "mosquitto did not start"
            pause.wait(0.01)
        yield running
        process.terminate()


@pytest.fixture
def spans() -> Recorder:
    return Recorder()


@pytest.fixture
def tracer_provider(spans: Recorder) -> TracerProvider:
    provider = TracerProvider()
    provider.add_span_processor(spans)
    return provider


@pytest.fixture
def instrument(tracer_provider: TracerProvider) -> Iterator[Callable[..., None]]:
    """Instruments paho with the given options, for the rest of the test."""
    instrumentor = PahoMqttInstrumentor()

    def instrument(**options: Any) -> None:
        instrumentor.instrument(**{"tracer_provider": tracer_provider, **options})

    yield instrument
    if instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.uninstrument()


@pytest.fixture
def instrumented(instrument: Callable[..., None]) -> None:
    instrument()


@contextmanager
def running_client(
    broker: Broker,
    *subscriptions: str,
    client_class: type[mqtt.Client] = mqtt.Client,
    protocol: MQTTProtocolVersion = mqtt.MQTTv5,
    on_message: Callable[..., None] | None = None,
    port: int | None = None,
    callback_api: CallbackAPIVersion = CallbackAPIVersion.VERSION2,
    connect_options: dict[str, Any] | None = None,
    **options: Any,
) -> Generator[mqtt.Client, None, None]:
    """A client with a running network thread, connected and subscribed."""
    client = client_class(callback_api, protocol=protocol, **options)
    client.reconnect_delay_set(0, 1)
    if on_message is not None:
        client.on_message = on_message
    ready = threading.Event()
    subscribed = threading.Event()

    def on_connect(client: mqtt.Client, *_: Any) -> None:
        if subscriptions:
            client.subscribe([(topic, 2) for topic in subscriptions])
        ready.set()

    client.on_connect = on_connect
    client.on_subscribe = lambda *_: subscribed.set()
    client.connect("127.0.0.1", port or broker.port, **(connect_options or {}))
    client.loop_start()
    try:
        assert ready.wait(TIMEOUT_SECONDS)
        assert not subscriptions or subscribed.wait(TIMEOUT_SECONDS)
        yield client
    finally:
        client.disconnect()
        client.loop_stop()


@pytest.fixture
def connect(broker: Broker) -> Iterator[Callable[..., mqtt.Client]]:
    """Connects clients to the broker; they are stopped at the end of the test."""
    with ExitStack() as stack:
        yield lambda *subscriptions, **options: stack.enter_context(running_client(broker, *subscriptions, **options))


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A topic that only this test uses."""
    return f"tests/{request.node.name}".replace("#", "").replace("+", "")
