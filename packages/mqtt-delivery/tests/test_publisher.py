"""The publisher with a real Mosquitto: which messages it keeps, in which order, in which trace."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from delivery_harness import Broker, connected, eventually, new_client
from opentelemetry import baggage
from opentelemetry.context import attach, detach
from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from mqtt_delivery import Publisher


def payloads(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(start, start + count)]


def running(broker: Broker, **options: object) -> Publisher:
    publisher = Publisher(new_client(), **options)  # pyright: ignore[reportArgumentType] (options of a test)
    publisher.connect("127.0.0.1", broker.port)
    return publisher


@pytest.mark.parametrize("on_disk", [False, True])
def test_what_is_published_arrives_in_order(broker: Broker, topic: str, tmp_path: Path, on_disk: bool) -> None:
    publisher = running(broker, buffer_file=tmp_path / "buffer.db" if on_disk else None)
    with connected(broker, topic) as (_, received):
        assert all(publisher.publish(topic, payload) for payload in payloads(1000))
        assert publisher.wait_empty(20)
        eventually(lambda: len(received) == 1000)
    assert [message.payload for message in received] == payloads(1000)
    assert (publisher.published, publisher.dropped, publisher.close(1)) == (1000, 0, 0)


@pytest.mark.parametrize("on_disk", [False, True])
def test_the_broker_is_away_and_takes_few_at_once(
    own_broker: Broker, topic: str, tmp_path: Path, on_disk: bool
) -> None:
    own_broker.stop()
    # This is its Receive Maximum: it disconnects a client that exceeds it (MQTT 5.0, 3.3.4-9).
    own_broker.settings += ["max_inflight_messages 3", "log_type all"]
    publisher = running(own_broker, buffer_file=tmp_path / "buffer.db" if on_disk else None)
    for payload in payloads(200):
        publisher.publish(topic, payload)
    assert publisher.waiting == 200
    assert not publisher.healthy
    own_broker.start()
    with connected(own_broker, topic) as (_, received):
        eventually(lambda: len(received) >= 200)
        own_broker.stop()
        for payload in payloads(200, 200):
            publisher.publish(topic, payload)
        own_broker.start()
        eventually(lambda: len(received) >= 400)
    assert publisher.healthy
    assert "eceive maximum" not in own_broker.log()
    # The publisher may connect before the subscriber: messages that the broker dropped then come again, later.
    assert sorted({int(message.payload) for message in received}) == list(range(400))
    publisher.close(1)


def test_what_nobody_is_subscribed_to_is_sent_again_in_order(
    broker: Broker, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = running(broker)
    for payload in payloads(300):
        publisher.publish(topic, payload)
    eventually(lambda: "nobody is subscribed" in caplog.text)
    assert not publisher.wait_empty(0.5)
    with connected(broker, topic) as (_, received):
        eventually(lambda: len(received) == 300)
    assert [message.payload for message in received] == payloads(300)
    assert caplog.text.count("nobody is subscribed") == 1
    assert publisher.close(1) == 0


def test_what_the_buffer_cannot_hold_is_dropped_counted_and_said(
    own_broker: Broker, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    own_broker.stop()
    publisher = running(own_broker, size=3)
    taken = [publisher.publish(topic, payload) for payload in payloads(5)]
    assert taken == [True] * 3 + [False] * 2
    assert caplog.text.count("dropping messages from now on") == 1
    own_broker.start()
    with connected(own_broker, topic) as (_, received):
        eventually(lambda: len(received) == 3)
        publisher.publish(topic, b"more")
        assert "takes messages again; 2 were dropped" in caplog.text
        assert publisher.wait_empty(10)
    assert (publisher.published, publisher.dropped) == (4, 2)
    publisher.close(1)


def test_what_the_broker_refuses_is_dropped_and_holds_nothing_up(
    broker: Broker, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = running(broker)
    with connected(broker, topic) as (_, received):
        publisher.publish("forbidden/x", b"1")
        publisher.publish(topic, b"2")
        eventually(lambda: received)
    assert "the broker refuses a message on forbidden/x: Not authorized" in caplog.text
    assert (publisher.close(1), publisher.dropped) == (0, 1)


def test_what_is_too_large_for_the_broker_is_dropped_and_holds_nothing_up(own_broker: Broker, topic: str) -> None:
    own_broker.stop()
    own_broker.settings.append("max_packet_size 5000")
    own_broker.start()
    publisher = running(own_broker)
    with connected(own_broker, topic) as (_, received):
        publisher.publish(topic, b"x" * 10_000)
        publisher.publish(topic, b"small")
        eventually(lambda: received)
    assert (publisher.close(1), publisher.dropped) == (0, 1)


@pytest.mark.parametrize("bad", ["", "a/+", "#", "x" * 70_000])
def test_what_is_no_topic_is_an_error_of_the_caller(broker: Broker, bad: str) -> None:
    with pytest.raises(ValueError, match="is no topic to publish to"):
        Publisher(new_client()).publish(bad, b"")
    with pytest.raises(ValueError, match="size must be"):
        Publisher(new_client(), size=0)


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def instrumented(exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch) -> Iterator[TracerProvider]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(
        "mqtt_delivery.buffers.get_tracer", lambda name, version: provider.get_tracer("mqtt_delivery", version)
    )
    PahoMqttInstrumentor().instrument(tracer_provider=provider, process_spans=False)
    yield provider
    PahoMqttInstrumentor().uninstrument()


def test_a_message_that_waited_is_published_in_the_context_it_was_made_in(
    own_broker: Broker, topic: str, exporter: InMemorySpanExporter, instrumented: TracerProvider
) -> None:
    own_broker.stop()
    publisher = running(own_broker)
    token = attach(baggage.set_baggage("sensor.id", "one"))
    with instrumented.get_tracer("test").start_as_current_span("make") as made:
        publisher.publish(topic, b"1")
    detach(token)
    own_broker.start()
    with connected(own_broker, topic) as (_, received):
        eventually(lambda: received)
    carried = dict(received[0].properties.UserProperty)  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    assert carried["baggage"] == "sensor.id=one"
    publisher.close(1)
    # There may be several: the broker may have dropped the message before somebody was subscribed.
    published = [span for span in exporter.get_finished_spans() if "publish" in span.name]
    assert {span.parent and span.parent.span_id for span in published} == {made.get_span_context().span_id}


PRODUCER = """
import sys, threading
import paho.mqtt.client as mqtt
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor
from mqtt_delivery import Publisher
trace.set_tracer_provider(TracerProvider())
PahoMqttInstrumentor().instrument()
port, file, topic, count = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
publisher = Publisher(client, size=2000, buffer_file=file)
publisher.connect("127.0.0.1", port)
for number in range(count):
    publisher.publish(topic, str(number))
print("kept", flush=True)
threading.Event().wait()
"""


def test_a_thousand_messages_outlive_kill_9_with_the_broker_away(
    own_broker: Broker, topic: str, tmp_path: Path
) -> None:
    own_broker.stop()
    program = tmp_path / "producer.py"
    program.write_text(textwrap.dedent(PRODUCER))
    file = tmp_path / "buffer.db"

    def start(count: int) -> subprocess.Popen[str]:
        arguments = [sys.executable, str(program), str(own_broker.port), str(file), topic, str(count)]
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "kept\n"
        return process

    for _ in range(2):
        process = start(500)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with sqlite3.connect(file) as database:
        contexts = [row[0] for row in database.execute("SELECT context FROM message ORDER BY number")]
    database.close()
    made = [re.findall("00-([0-9a-f]{32})", context)[0] for context in contexts]
    own_broker.start()
    with connected(own_broker, topic) as (_, received):
        process = start(0)
        eventually(lambda: len(received) >= 1000)
        process.kill()
        process.wait()
    arrived = [message.payload for message in received]
    assert arrived == payloads(500) * 2
    trace_ids = [dict(message.properties.UserProperty)["traceparent"].split("-")[1] for message in received]  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    assert trace_ids == made
    assert len(set(trace_ids)) == 1000
    print(f"made 1000, arrived {len(arrived)}, traces {len(set(trace_ids))}")


def test_a_damaged_buffer_is_set_aside(broker: Broker, topic: str, tmp_path: Path) -> None:
    file = tmp_path / "buffer.db"
    file.write_bytes(b"no database" * 1000)
    publisher = running(broker, buffer_file=file)
    with connected(broker, topic) as (_, received):
        publisher.publish(topic, b"1")
        eventually(lambda: received)
    assert len(list(tmp_path.glob("buffer.db.damaged-*"))) == 1
    publisher.close(1)


def test_a_buffer_belongs_to_one_publisher(tmp_path: Path) -> None:
    file = tmp_path / "buffer.db"
    first = Publisher(new_client(), buffer_file=file)
    with pytest.raises(sqlite3.OperationalError):
        Publisher(new_client(), buffer_file=file)
    first.close(0)


def test_a_disk_that_takes_no_more_drops_and_says_so(
    tmp_path: Path, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = Publisher(new_client(), buffer_file=tmp_path / "buffer.db")
    publisher._buffer._database.execute("PRAGMA max_page_count = 1")  # pyright: ignore[reportAttributeAccessIssue] (as a full disk does)
    results = [publisher.publish(topic, b"x" * 5000) for _ in range(3)]
    assert not all(results)
    assert "the disk does not take them" in caplog.text
    publisher.close(0)


class AnsweringClient:
    """A client that answers as the test tells it, even before ``publish`` returns."""

    on_connect: Any = None
    on_disconnect: Any = None
    on_publish: Any = None

    def __init__(self, *answers: int, early: bool = False) -> None:
        self._client_id = b"device"
        self.answers = list(answers)
        self.early = early
        self.published: list[bytes] = []

    def max_inflight_messages_set(self, number: int) -> None:
        pass

    keepalive = 0

    def enable_logger(self, logger: object) -> None:
        pass

    def is_connected(self) -> bool:
        return True

    def publish(self, topic: str, payload: bytes, qos: int, properties: Any) -> Any:
        if topic == "no/topic":
            raise ValueError("paho does not like it")
        self.published.append(payload)
        mid = len(self.published)
        if self.early:
            self.answer(mid)
        return SimpleNamespace(mid=mid)

    def answer(self, mid: int) -> None:
        value = self.answers.pop(0)
        self.on_publish(self, None, mid, SimpleNamespace(value=value, is_failure=value >= 0x80), None)

    def connect(self, **values: int) -> None:
        properties = SimpleNamespace(**values)
        self.on_connect(self, None, None, SimpleNamespace(is_failure=False), properties)


@pytest.mark.parametrize("again", [0x10, 0x97])
def test_what_the_broker_does_not_keep_comes_again_alone_and_then_the_rest_in_order(
    monkeypatch: pytest.MonkeyPatch, again: int
) -> None:
    monkeypatch.setattr("mqtt_delivery.publisher.PAUSE_SECONDS", 0.05)
    client: Any = AnsweringClient(again, again, again, 0, 0, 0)
    publisher = Publisher(client)
    client.connect(ReceiveMaximum=2)
    for payload in payloads(3):
        publisher.publish("t", payload)
    client.answer(1)
    client.answer(2)
    eventually(lambda: client.published == [b"0", b"1", b"0"])
    client.answer(3)
    eventually(lambda: client.published == [b"0", b"1", b"0", b"0"])
    client.answer(4)
    assert client.published[4:] == [b"1", b"2"]
    client.answer(5)
    client.answer(6)
    assert publisher.wait_empty(1)
    assert publisher.dropped == 0


def test_an_answer_can_come_before_publish_returns() -> None:
    client: Any = AnsweringClient(0, 0, early=True)
    publisher = Publisher(client)
    client.connect()
    publisher.publish("t", b"1")
    publisher.publish("t", b"2")
    assert publisher.wait_empty(1)
    assert publisher.healthy
    assert publisher.stalled_seconds == 0


def test_what_paho_does_not_take_is_dropped_and_holds_nothing_up(caplog: pytest.LogCaptureFixture) -> None:
    client: Any = AnsweringClient(0, early=True)
    publisher = Publisher(client)
    client.connect()
    publisher.publish("no/topic", b"1")
    publisher.publish("t", b"2")
    assert publisher.wait_empty(1)
    assert (publisher.dropped, client.published) == (1, [b"2"])
    assert "paho does not like it" in caplog.text


def test_no_acknowledgement_on_a_standing_connection_is_not_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    client: Any = AnsweringClient()
    publisher = Publisher(client)
    client.connect()
    publisher.publish("t", b"1")
    assert publisher.healthy
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 11)
    assert not publisher.healthy
    busy = ReasonCode(PacketTypes.DISCONNECT, "Server busy")
    client.on_disconnect(client, None, SimpleNamespace(is_disconnect_packet_from_server=False), busy, None)
    publisher.publish("t", b"2")
    assert client.published == [b"1"]


def test_a_connection_that_is_refused_is_said(caplog: pytest.LogCaptureFixture) -> None:
    client: Any = AnsweringClient()
    publisher = Publisher(client)
    client.on_connect(client, None, None, SimpleNamespace(is_failure=True, value=0x87), None)
    publisher.publish("t", b"1")
    assert client.published == []
    assert "the broker refuses the connection of client 'device'" in caplog.text


def test_a_disk_that_does_not_forget_does_no_harm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    client: Any = AnsweringClient(0)
    publisher = Publisher(client, buffer_file=tmp_path / "buffer.db")
    client.connect()
    properties = Properties(PacketTypes.PUBLISH)
    properties.ContentType = "text/plain"
    publisher.publish("t", b"1", properties)
    publisher._buffer._database.execute("PRAGMA query_only = 1")  # pyright: ignore[reportAttributeAccessIssue] (as a broken disk does)
    client.answer(1)
    assert "it will be sent again" in caplog.text
    publisher._buffer.close()
    again: Any = AnsweringClient(0)
    second = Publisher(again, buffer_file=tmp_path / "buffer.db")
    again.connect()
    assert again.published == [b"1"]
    again.answer(1)
    assert second.wait_empty(1)


def test_what_waits_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    monkeypatch.setattr("mqtt_delivery.metrics.get_meter", provider.get_meter)
    for file in (None, tmp_path / "buffer.db"):
        client: Any = AnsweringClient(0, 0)
        publisher = Publisher(client, size=2, buffer_file=file)
        client.connect(ReceiveMaximum=1)
        for payload in payloads(3):
            publisher.publish("t", payload)
        data = reader.get_metrics_data()
        assert data is not None
        (scope,) = data.resource_metrics[0].scope_metrics
        found = {metric.name: list(metric.data.data_points)[-1] for metric in scope.metrics}
        for name in ("in_flight", "waiting", "dropped"):
            assert getattr(found[f"mqtt_delivery.publisher.{name}"], "value", 0) >= 1, name
        assert getattr(found["mqtt_delivery.publisher.oldest.age"], "value", -1) >= 0
