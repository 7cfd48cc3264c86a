"""A consumer's health with a real Mosquitto, and what it logs when a broker refuses or ends something."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from delivery_harness import Broker, Handled, connected, consuming, eventually, new_client, publish
from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from mqtt_delivery import Consumer, Message, Publisher, heartbeat, session


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shortens the times of the heartbeat."""
    for name, seconds in {"BEAT": 0.3, "UNHEALTHY": 1.5, "SILENCE": 3.0}.items():
        monkeypatch.setattr(heartbeat, f"{name}_SECONDS", seconds)
    for name in ("UNHEALTHY", "SILENCE"):
        monkeypatch.setattr(session, f"{name}_SECONDS", getattr(heartbeat, f"{name}_SECONDS"))


class Running:
    """A consumer's ``run``, as a service calls it."""

    def __init__(self, consumer: Consumer) -> None:
        self.stop = threading.Event()
        self.beats: list[float] = []
        self.told: list[bool] = []
        self._thread = threading.Thread(
            target=lambda: self.told.append(consumer.run(self.stop, lambda: self.beats.append(time.monotonic())))
        )
        self._thread.start()

    def end(self, seconds: float = 20.0) -> bool | None:
        self._thread.join(seconds)
        return self.told[0] if self.told else None


@contextmanager
def running(consumer: Consumer) -> Iterator[Running]:
    made = Running(consumer)
    yield made
    made.stop.set()
    made.end()


def healthy_for(consumer: Consumer, seconds: float) -> bool:
    pause = threading.Event()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not consumer.healthy:
            return False
        pause.wait(0.05)
    return True


def test_idle_it_stays_healthy_by_its_own_message_which_nobody_traces(broker: Broker, topic: str) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    PahoMqttInstrumentor().instrument(tracer_provider=provider, process_spans=False)
    handled = Handled()
    try:
        with (
            connected(broker, "heartbeat/#") as (_, heard),
            consuming(broker, topic, handled, client_id="idle/one") as consumer,
        ):
            assert healthy_for(consumer, 4.0)
            assert (consumer.live, consumer.connected, consumer.delivers) == (True, True, True)
            assert {message.topic for message in heard} == {"heartbeat/idle_one"}
            assert {message.qos for message in heard} == {1}
            assert 5 < len(heard) < 14
            assert len({bytes(message.payload) for message in heard}) == len(heard)
            assert not any(hasattr(message.properties, "UserProperty") for message in heard)
    finally:
        PahoMqttInstrumentor().uninstrument()
    assert not handled.begun
    assert not exporter.get_finished_spans()


def test_a_broker_that_stands_still_is_noticed(
    own_broker: Broker, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    consumer = Consumer(new_client("worker"), topic, Handled()).connect("127.0.0.1", own_broker.port)
    with running(consumer) as run:
        eventually(lambda: len(run.beats) >= 3)
        own_broker.signal(signal.SIGSTOP)
        try:
            assert run.end() is False
            assert (consumer.live, consumer.connected, consumer.delivers) == (True, True, False)
        finally:
            own_broker.signal(signal.SIGCONT)
    assert "stopping: what is published on heartbeat/worker does not come" in caplog.text
    consumer.stop()


def test_what_is_published_and_not_delivered_is_noticed(own_broker: Broker, topic: str) -> None:
    consumer = Consumer(new_client("worker"), topic, Handled()).connect("127.0.0.1", own_broker.port)
    with running(consumer) as run:
        eventually(lambda: len(run.beats) >= 2)
        # As if an administrator ended the subscription: the connection stays open and the broker answers.
        consumer._session._client.unsubscribe("heartbeat/worker")
        assert run.end() is False
        assert consumer.connected
    consumer.stop()


def test_messages_that_come_are_as_good_as_its_own(own_broker: Broker, topic: str) -> None:
    with (
        consuming(own_broker, topic, Handled()) as consumer,
        connected(own_broker, "heartbeat/#") as (client, heard),
    ):
        for number in range(40):
            publish(client, topic, b"%d" % number)
            assert consumer.healthy
            threading.Event().wait(0.05)
        assert len(heard) <= 1


def test_a_flood_and_a_handler_that_hangs_do_no_harm(broker: Broker, topic: str) -> None:
    go_on = threading.Event()
    handled = Handled(lambda message: go_on.wait(0.002) if message.payload != b"hangs" else go_on.wait(30))
    with (
        consuming(broker, f"{topic}/+", handled, receive_maximum=10, workers=2) as consumer,
        connected(broker) as (client, _),
    ):
        publish(client, f"{topic}/hanging", b"hangs")
        for number in range(3000):
            client.publish(f"{topic}/{number % 5}", b"x" * 100, qos=1)
        # The messages that were sent ahead wait behind the first one, so the heartbeat may wait as well.
        assert healthy_for(consumer, 4.0)
        go_on.set()
        eventually(lambda: len(handled.messages) == 3001)
        assert healthy_for(consumer, 2.0)


def test_switched_off_it_sends_nothing_and_any_packet_counts(own_broker: Broker, topic: str) -> None:
    client = new_client("worker")
    consumer = Consumer(client, topic, Handled(), heartbeat=False)
    with connected(own_broker, "heartbeat/#") as (_, heard):
        consumer.connect("127.0.0.1", own_broker.port, keepalive_seconds=1)
        eventually(lambda: consumer.healthy)
        # Only PINGRESPs come.
        assert healthy_for(consumer, 4.0)
        assert not heard
    own_broker.signal(signal.SIGSTOP)
    try:
        eventually(lambda: not consumer.connected)
        assert consumer.live
    finally:
        own_broker.signal(signal.SIGCONT)
    eventually(lambda: consumer.healthy)
    consumer.stop()


def test_a_broker_that_refuses_the_heartbeat_is_lived_with(
    own_broker: Broker, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    own_broker.stop()
    own_broker.deny("heartbeat/#")
    own_broker.start()
    handled = Handled()
    with (
        consuming(own_broker, topic, handled, client_id="worker") as consumer,
        connected(own_broker) as (client, _),
    ):
        assert healthy_for(consumer, 4.0)
        publish(client, topic, b"reading")
        eventually(lambda: handled.messages)
    lines = [record.getMessage() for record in caplog.records if "heartbeat" in record.getMessage()]
    assert lines == [
        "whether messages are delivered is not known: the broker refuses a message on heartbeat/worker: "
        "Not authorized (0x87)"
    ]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_network_thread_that_hangs_or_died_is_not_live(own_broker: Broker, topic: str) -> None:
    go_on = threading.Event()
    client: Any = new_client("worker")
    consumer = Consumer(client, topic, Handled())
    client.on_message = lambda *_: go_on.wait(20)
    consumer.connect("127.0.0.1", own_broker.port, keepalive_seconds=1)
    eventually(lambda: consumer.healthy)
    with running(consumer) as run, connected(own_broker) as (other, _):
        publish(other, topic, b"x")
        eventually(lambda: not consumer.live)
        assert run.end() is False
        go_on.set()
    consumer.stop()

    dying: Any = new_client("dying")
    died = Consumer(dying, topic, Handled())
    dying.on_message = lambda *_: 1 / 0
    died.connect("127.0.0.1", own_broker.port)
    eventually(lambda: died.healthy)
    with connected(own_broker) as (other, _):
        publish(other, topic, b"x")
        eventually(lambda: not died.live)
        assert dying.is_connected()
        died.stop()


# ------------------------------------------------------------------ what is refused, and what ends


def ready_made(**options: Any) -> tuple[Any, Consumer]:
    """A client and its consumer, to call the callbacks with answers that Mosquitto never gives."""
    client: Any = new_client("worker")
    return client, Consumer(client, "a", Handled(), **options)


def test_each_reason_code_of_a_suback_is_looked_at(caplog: pytest.LogCaptureFixture) -> None:
    client, consumer = ready_made()
    mids: dict[str, int] = {}

    def subscribe(topic_filter: str, options: object = None) -> tuple[int, int]:
        mids[topic_filter] = len(mids) + 1
        return 0, mids[topic_filter]

    client.subscribe = subscribe
    success = ReasonCode(PacketTypes.CONNACK, "Success")
    refused = [ReasonCode(PacketTypes.SUBACK, "Not authorized")]
    said = Properties(PacketTypes.SUBACK)
    said.ReasonString = "ask\nthe operator"
    client.on_connect(client, None, SimpleNamespace(session_present=False), success, Properties(PacketTypes.CONNACK))
    client.on_subscribe(client, None, mids["heartbeat/worker"], refused, said)
    assert not consumer._session._subscribed
    client.on_subscribe(client, None, mids["a"], [ReasonCode(PacketTypes.SUBACK, "Granted QoS 0")], None)
    assert consumer._session._subscribed
    client.on_subscribe(client, None, mids["a"], refused, None)
    assert [record.getMessage() for record in caplog.records] == [
        "whether messages are delivered is not known: the broker refuses the subscription to heartbeat/worker: "
        "Not authorized (0x87): 'ask\\nthe operator'",
        "the broker grants a no more than QoS 0: what gets lost is not sent again",
        "the broker refuses the subscription to : Not authorized (0x87)",
    ]


def test_an_unsubscribe_that_is_refused_is_said(caplog: pytest.LogCaptureFixture) -> None:
    client, _ = ready_made()
    refused = [ReasonCode(PacketTypes.UNSUBACK, "Success"), ReasonCode(PacketTypes.UNSUBACK, "Not authorized")]
    client.on_unsubscribe(client, None, 1, refused, None)
    assert "the broker does not unsubscribe : Not authorized (0x87)" in caplog.text


def test_why_a_connection_was_refused_or_ended_is_said(
    own_broker: Broker, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    own_broker.stop()
    own_broker.settings.append("retain_available false")
    own_broker.start()
    with consuming(own_broker, topic, Handled(), client_id="worker") as consumer:
        consumer._session._client.publish(topic, b"x", retain=True)
        eventually(lambda: "the broker has ended the connection: Retain not supported (0x9A)" in caplog.text)
        eventually(lambda: consumer.healthy)
        own_broker.signal(signal.SIGKILL)
        eventually(lambda: "the connection to the broker is lost" in caplog.text)
        own_broker.stop()
        caplog.clear()
        own_broker.settings[:] = ["allow_anonymous false"]
        own_broker.start()
        eventually(lambda: "the broker refuses the connection of client 'worker': Not authorized (0x87)" in caplog.text)
        assert "is lost" not in caplog.text


def test_what_the_broker_says_of_an_end_is_in_the_line(caplog: pytest.LogCaptureFixture) -> None:
    client, _ = ready_made()
    said = Properties(PacketTypes.DISCONNECT)
    said.ReasonString = "one too many\nof you" + "!" * 1000
    code = ReasonCode(PacketTypes.DISCONNECT, "Quota exceeded")
    client.on_disconnect(client, None, SimpleNamespace(is_disconnect_packet_from_server=True), code, said)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("the broker has ended the connection: Quota exceeded (0x97): 'one too many\\nof you!!")
    assert len(line) < 300


def test_a_client_id_that_another_has_too_is_said(caplog: pytest.LogCaptureFixture) -> None:
    client, _ = ready_made()
    code = ReasonCode(PacketTypes.DISCONNECT, "Session taken over")
    client.on_disconnect(client, None, SimpleNamespace(is_disconnect_packet_from_server=True), code, None)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == "another client has the id 'worker' too, and took over its connection: each needs its own"


def test_a_client_id_that_another_has_too_is_said_where_the_broker_does_not(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    publishers = [Publisher(new_client("one")) for _ in range(2)]
    for publisher in publishers:
        publisher.connect("127.0.0.1", broker.port)
    asked = "3 connections in a row lasted less than 10 s: has another client the id 'one' too? Each needs its own"
    # Each logs it once, however long this goes on.
    eventually(lambda: caplog.text.count("the connection to the broker is lost") > 10)
    assert 1 <= caplog.text.count(asked) <= 2
    for publisher in publishers:
        publisher.close(1)


def test_a_publisher_says_why_a_connection_ended(
    own_broker: Broker, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = Publisher(new_client("device"))
    publisher.connect("127.0.0.1", own_broker.port)
    eventually(lambda: publisher.healthy)
    assert (publisher.live, publisher.connected) == (True, True)
    own_broker.stop()
    eventually(lambda: "the connection to the broker is lost" in caplog.text)
    assert not publisher.connected
    publisher.close(1)
    assert not publisher.live


# ------------------------------------------------------------------ leaving


def leaving(topic: str, handle: Any = None) -> Consumer:
    return Consumer(new_client(topic), topic, handle or Handled(), consumers=2, share_name="s")


def test_a_session_is_not_left_where_the_marker_is_refused(
    own_broker: Broker, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    own_broker.stop()
    own_broker.deny("heartbeat/#")
    own_broker.start()
    with consuming(own_broker, topic, Handled(), client_id=topic, consumers=2, share_name="s"):
        pass
    assert not leaving(topic).leave(threading.Event(), "127.0.0.1", own_broker.port)
    name = topic.replace("/", "_")
    assert f"the broker refuses heartbeat/{name}: the session of {topic} goes on, with what it holds" in caplog.text


def test_leaving_ends_where_the_broker_says_nothing(
    own_broker: Broker, topic: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "LEAVE_SECONDS", 1.0)
    with consuming(own_broker, topic, Handled(), client_id=topic, consumers=2, share_name="s"):
        pass
    own_broker.signal(signal.SIGSTOP)
    try:
        assert not leaving(topic).leave(threading.Event(), "127.0.0.1", own_broker.port)
        assert "the broker did not answer within 1 s: the session of" in caplog.text
    finally:
        own_broker.signal(signal.SIGCONT)


def test_what_comes_while_it_leaves_is_processed_before_the_marker(own_broker: Broker, topic: str) -> None:
    def does(message: Message) -> None:
        threading.Event().wait(0.001)

    handled = Handled(does)
    with connected(own_broker) as (client, _):
        with consuming(own_broker, topic, handled, client_id=topic, receive_maximum=5):
            pass
        publish(client, topic, *(b"%d" % number for number in range(400)))
        gone = Consumer(new_client(topic), topic, handled, receive_maximum=5)
        assert gone.leave(threading.Event(), "127.0.0.1", own_broker.port)
        assert [int(payload) for payload in handled.payloads] == list(range(400))
        # The session is gone: nobody receives what is published now.
        again = new_client(topic)
        present: list[bool] = []
        again.on_connect = lambda _client, _userdata, flags, *_: present.append(flags.session_present)
        again.connect("127.0.0.1", own_broker.port, clean_start=False)
        again.loop_start()
        eventually(lambda: present)
        again.disconnect()
        again.loop_stop()
    assert present == [False]
