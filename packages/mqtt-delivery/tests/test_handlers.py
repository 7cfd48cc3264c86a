"""The consumer with a real Mosquitto: what its handler does, and what happens to the message."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from delivery_harness import (
    TIMEOUT_SECONDS,
    Broker,
    Handled,
    connected,
    consuming,
    eventually,
    new_client,
    publish,
    user_properties,
    values,
)
from opentelemetry import metrics
from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import get_current_span
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from tenacity import wait_fixed

from mqtt_delivery import Consumer, Message, PublishError, Reject, Retry, check_answer
from mqtt_delivery.keys import KeysHeard
from mqtt_delivery.seen import Seen


def payloads(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(start, start + count)]


def test_what_comes_is_handled_once_also_what_came_while_it_was_away(broker: Broker, topic: str) -> None:
    handled = Handled()
    with connected(broker) as (client, _):
        with consuming(broker, f"{topic}/+", handled, client_id=topic):
            publish(client, f"{topic}/a", *payloads(50))
            eventually(lambda: len(handled.messages) == 50)
        publish(client, f"{topic}/a", *payloads(50, 50))
        with consuming(broker, f"{topic}/+", handled, client_id=topic):
            eventually(lambda: len(handled.messages) == 100)
    assert handled.payloads == payloads(100)
    first = handled.messages[0]
    assert (first.topic, first.attempt, first.redelivered, first.id) == (f"{topic}/a", 1, False, None)


def test_a_message_that_fails_is_tried_again_in_order_and_the_others_go_on(broker: Broker, topic: str) -> None:
    def does(message: Message) -> None:
        if message.topic.endswith("/bad") and message.attempt < 4:
            raise ConnectionError("away")

    handled = Handled(does)
    with (
        consuming(broker, f"{topic}/+", handled, workers=1, wait=wait_fixed(0.2)),
        connected(broker) as (client, _),
    ):
        publish(client, f"{topic}/bad", b"1", b"2")
        publish(client, f"{topic}/good", *payloads(20))
        eventually(lambda: len(handled.messages) == 22)
    assert [message.payload for message in handled.messages if message.topic.endswith("bad")] == [b"1", b"2"]
    assert [message.attempt for message in handled.begun if message.topic.endswith("bad")] == [1, 2, 3, 4] * 2
    assert handled.messages[-1].topic.endswith("bad"), "the others waited for it"


@pytest.mark.parametrize(
    "error",
    [Reject("no use"), KeyError("missing"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), RecursionError()],
    ids=lambda error: type(error).__name__,
)
def test_no_exception_ends_a_thread_and_each_becomes_a_dead_letter(
    broker: Broker, topic: str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def does(message: Message) -> None:
        if message.payload == b"bad":
            raise error

    handled = Handled(does)
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = [("mine", "kept"), ("mine", "twice")]
    with (
        consuming(broker, f"{topic}/+", handled, workers=1, retry_seconds=0.3),
        connected(broker, f"dead-letter/{topic}/+") as (client, dead),
    ):
        publish(client, f"{topic}/a", b"bad", properties=properties)
        publish(client, f"{topic}/a", b"good")
        eventually(lambda: dead)
        eventually(lambda: handled.messages)
    (letter,) = dead
    assert (letter.topic, letter.payload) == (f"dead-letter/{topic}/a", b"bad")
    reason = letter.properties.UserProperty[-1]  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    assert letter.properties.UserProperty[:-1] == [("mine", "kept"), ("mine", "twice")]  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    assert reason == ("dead-letter-reason", str(error) or type(error).__name__)
    assert f"moved a message on {topic}/a to dead-letter/{topic}/a" in caplog.text
    assert handled.payloads == [b"good"]
    assert (len(handled.begun) == 2) == isinstance(error, Reject)


def test_what_comes_with_qos_0_is_handled_as_well(broker: Broker, topic: str) -> None:
    def does(message: Message) -> None:
        if message.payload == b"again" and message.attempt == 1:
            raise ConnectionError("away")

    handled = Handled(does)
    with consuming(broker, topic, handled), connected(broker) as (client, _):
        for payload in (b"again", b"1", b"2"):
            client.publish(topic, payload, qos=0)
        eventually(lambda: handled.payloads == [b"again", b"1", b"2"])


def test_exceptions_that_are_named_reject(broker: Broker, topic: str) -> None:
    def does(message: Message) -> None:
        int(message.payload)

    with (
        consuming(broker, topic, Handled(does), reject=(ValueError,), dead_letter="graveyard/{topic}"),
        connected(broker, f"graveyard/{topic}") as (client, dead),
    ):
        publish(client, topic, b"x")
        eventually(lambda: dead)


def test_a_topic_that_gets_too_long_is_shortened(broker: Broker) -> None:
    topic = "long/" + "x" * 65_525
    with (
        consuming(
            broker,
            "long/+",
            Handled(lambda message: check_answer(answer(422))),
            maximum_packet_size=100_000,
            maximum_topic_bytes=65_535,
        ),
        connected(broker, "dead-letter/long/+") as (client, dead),
    ):
        publish(client, topic, b"x")
        (letter,) = eventually(lambda: dead)
    assert len(letter.topic) < 300
    assert user_properties(letter)["dead-letter-topic"] == topic


def answer(status: int, body: bytes = b"{}") -> Any:
    return SimpleNamespace(status_code=status, content=body, text=body.decode("utf-8", "replace"))


def test_an_answer_tells_what_to_do() -> None:
    check_answer(answer(200), is_json=True)
    check_answer(answer(204, b""))
    for status in (408, 429, 500, 503):
        with pytest.raises(Retry, match=str(status)):
            check_answer(answer(status))
    for status in (301, 400, 404, 422):
        with pytest.raises(Reject, match=str(status)) as caught:
            check_answer(answer(status))
        assert caught.value.error_type == str(status)
    with pytest.raises(Retry, match="no JSON"):
        check_answer(answer(200, b"[" * 100_000), is_json=True)


def test_a_dead_letter_that_is_too_large_goes_without_its_payload(own_broker: Broker, topic: str) -> None:
    own_broker.stop()
    own_broker.settings.append("max_packet_size 5000")
    own_broker.start()

    def does(message: Message) -> None:
        raise Reject("no" * 400)

    with (
        consuming(own_broker, topic, Handled(does)),
        connected(own_broker, f"dead-letter/{topic}") as (client, dead),
    ):
        publish(client, topic, b"x" * 4500, b"x")
        eventually(lambda: len(dead) == 2)
    assert [len(letter.payload) for letter in dead] == [0, 1]
    assert "without its 4500 bytes" in user_properties(dead[0])["dead-letter-reason"]


def test_a_dead_letter_that_the_broker_refuses_is_offered_again_and_the_message_stays(
    broker: Broker, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    def does(message: Message) -> None:
        if message.topic.endswith("bad"):
            raise Reject("no")

    handled = Handled(does)
    with (
        consuming(broker, f"{topic}/+", handled, client_id=topic, workers=1, dead_letter="forbidden/{topic}"),
        connected(broker) as (client, _),
    ):
        publish(client, f"{topic}/bad", b"1")
        publish(client, f"{topic}/good", b"2")
        eventually(lambda: handled.messages)
        eventually(lambda: caplog.text.count("the broker has not taken a dead letter on forbidden/") >= 2)
        assert "Not authorized" in caplog.text
        assert len([message for message in handled.begun if message.topic.endswith("bad")]) == 1
    with (
        connected(broker, f"dead-letter/{topic}/+") as (_, dead),
        consuming(broker, f"{topic}/+", handled, client_id=topic),
    ):
        eventually(lambda: len(dead) == 1)


def test_what_has_one_key_is_handled_in_order_side_by_side_with_the_others(broker: Broker, topic: str) -> None:
    def does(message: Message) -> None:
        threading.Event().wait(0.001 * (int(message.payload) % 7))

    handled = Handled(does)
    with (
        consuming(broker, f"{topic}/+/+", handled, workers=8, key=lambda message: message.topic.split("/")[-2]),
        connected(broker) as (client, _),
    ):
        for number in range(300):
            client.publish(f"{topic}/key-{number % 10}/{number}", b"%d" % number, qos=1)
        eventually(lambda: len(handled.messages) == 300)
    order = [int(message.payload) for message in handled.messages]
    assert order != sorted(order), "they were not handled side by side"
    for key in range(10):
        assert [n for n in order if n % 10 == key] == sorted(n for n in order if n % 10 == key)


def test_functions_of_the_author_that_fail_do_no_harm(broker: Broker, topic: str) -> None:
    def fails(message: Message) -> str:
        raise RuntimeError("a bug")

    handled = Handled()
    with (
        consuming(broker, topic, handled, key=fails, message_id=fails, made_at=fails, remembered_ids=10),
        connected(broker) as (client, _),
    ):
        publish(client, topic, *payloads(3))
        eventually(lambda: handled.payloads == payloads(3))


def test_an_id_that_was_processed_is_not_processed_again(
    broker: Broker, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    handled = Handled()
    with (
        consuming(broker, topic, handled, message_id=lambda message: message.payload.decode(), remembered_ids=2),
        connected(broker) as (client, _),
    ):
        publish(client, topic, b"a", b"a", b"b", b"c", b"a", b"new\nline", b"new\nline", b"x" * 1000, b"x" * 1000)
        eventually(lambda: len(handled.messages) == 7)
    assert handled.payloads[:5] == [b"a", b"b", b"c", b"a", b"new\nline"]
    # A text that is too long is not taken as an id.
    assert [message.id for message in handled.messages[5:]] == [None, None]
    assert f"message a on {topic} was processed before" in caplog.text
    assert f"message 'new\\nline' on {topic} was processed before" in caplog.text
    assert handled.messages[0].id == "a"


def test_the_memory_for_ids_is_bounded() -> None:
    seen = Seen(3)
    for identifier in ("a", "b", "c", "d", None):
        seen.add(identifier)
    assert [identifier for identifier in ("a", "b", "d", None) if identifier in seen] == ["b", "d"]
    nothing = Seen(0)
    nothing.add("a")
    assert "a" not in nothing


def test_a_key_that_says_nothing_more_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr("mqtt_delivery.keys.MAXIMUM_KEYS", 3)
    keys = KeysHeard(60)
    for key in ("a", "b", "c", "d"):
        keys.heard(key)
    assert keys.silent == 0
    now[0] += 61
    keys.heard("d")
    assert keys.silent == 2  # a was forgotten: there are too many
    now[0] += 3600
    keys.heard("d")
    assert keys.silent == 0


def test_batches_are_handled_at_once_and_a_bad_message_does_not_take_its_batch_with_it(
    broker: Broker, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    batches: list[list[bytes]] = []

    def together(messages: list[Message]) -> None:
        if any(message.payload == b"bad" for message in messages):
            raise ValueError("not all are good")
        batches.append([message.payload for message in messages])

    def alone(message: Message) -> None:
        if message.payload == b"bad":
            raise Reject("bad")

    handled = Handled(alone)
    options = {"handle_batch": together, "batch_size": 5, "batch_seconds": 0.2, "workers": 1}
    with (
        consuming(broker, f"{topic}/+", handled, **options),
        connected(broker, f"dead-letter/{topic}/+") as (client, dead),
    ):

        def count() -> int:
            # A message that comes alone is no batch: it goes to the ordinary handler.
            return sum(map(len, batches)) + len(handled.messages)

        publish(client, f"{topic}/a", *payloads(100))
        eventually(lambda: count() == 100)
        assert max(map(len, batches)) > 1
        infos = [client.publish(f"{topic}/{n % 3}", b"bad" if n == 10 else b"good", qos=1) for n in range(20)]
        infos[-1].wait_for_publish(TIMEOUT_SECONDS)
        eventually(lambda: count() == 119)
        eventually(lambda: dead)
    assert "they are tried one by one" in caplog.text
    assert len(dead) == 1


def test_the_connection_is_lost_with_messages_in_hand_and_none_is_handled_twice(own_broker: Broker, topic: str) -> None:
    go_on = threading.Event()
    handled = Handled(lambda message: go_on.wait(20))
    with consuming(own_broker, f"{topic}/+", handled, client_id="worker") as consumer:
        with connected(own_broker) as (client, _):
            for number in range(100):
                publish(client, f"{topic}/{number % 10}", b"%d" % number)
            eventually(lambda: len(handled.begun) == 4)
        own_broker.stop()
        eventually(lambda: not consumer.healthy)
        own_broker.start()
        eventually(lambda: consumer.healthy)
        go_on.set()
        eventually(lambda: len(handled.messages) == 100)
    assert Counter(handled.payloads) == Counter(payloads(100))
    assert any(message.redelivered for message in handled.messages)


def test_a_lost_session_is_said(
    own_broker: Broker, topic: str, caplog: pytest.LogCaptureFixture, reader: InMemoryMetricReader
) -> None:
    said: list[str] = []

    def on_session_lost(what: str) -> None:
        said.append(what)
        raise RuntimeError("a bug")

    with consuming(own_broker, topic, Handled(), client_id="worker", on_session_lost=on_session_lost) as consumer:
        assert not said
        own_broker.stop()
        own_broker.start()
        eventually(lambda: consumer.healthy)
        assert not said, "the broker had kept it"
        own_broker.stop(forget=True)
        own_broker.start()
        eventually(lambda: said)
        eventually(lambda: consumer.healthy)
    assert "the broker has lost the session" in said[0]
    assert any(record.levelname == "ERROR" and "lost the session" in record.message for record in caplog.records)
    assert values(reader)["mqtt_delivery.consumer.sessions.lost"] == [1]


def test_a_session_that_the_broker_shortens_is_said(caplog: pytest.LogCaptureFixture) -> None:
    said: list[str] = []
    client: Any = new_client()
    Consumer(client, "a", Handled(), on_session_lost=said.append, heartbeat=False)
    connack = Properties(PacketTypes.CONNACK)
    connack.SessionExpiryInterval = 60
    taken = SimpleNamespace(is_failure=False, value=0)
    for present in (False, True):
        client.on_connect(client, None, SimpleNamespace(session_present=present), taken, connack)
    assert said == ["the broker keeps the session for 60 s, not for 3600 s"]


@pytest.mark.parametrize(
    "options", [{"workers": 0}, {"receive_maximum": 0}, {"receive_maximum": 70_000}, {"batch_size": 0}]
)
def test_wrong_numbers_are_errors_of_the_caller(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Consumer(new_client(), "a", Handled(), **options)  # pyright: ignore[reportArgumentType]


def test_a_handler_publishes_and_its_message_is_acknowledged_after_that(broker: Broker, topic: str) -> None:
    refused: list[PublishError] = []

    def does(message: Message) -> None:
        try:
            consumer.publish(message.user_properties[0][1], message.payload.upper())
        except PublishError as error:
            refused.append(error)
            raise

    handled = Handled(does)
    with (
        consuming(broker, f"{topic}/+", handled, retry_seconds=0.3) as consumer,
        connected(broker, f"{topic}-out", f"dead-letter/{topic}/+") as (client, received),
    ):
        for number, output in enumerate((f"{topic}-out", "forbidden/x", "a/#")):
            properties = Properties(PacketTypes.PUBLISH)
            properties.UserProperty = [("output", output)]
            publish(client, f"{topic}/{number}", b"x", properties=properties)
        eventually(lambda: len(received) == 3)
    assert Counter(message.topic for message in received) == {
        f"{topic}-out": 1,
        f"dead-letter/{topic}/1": 1,
        f"dead-letter/{topic}/2": 1,
    }
    assert refused[0].error_type == "Not authorized"


def test_a_publish_that_nobody_answers_ends(own_broker: Broker, topic: str) -> None:
    with consuming(own_broker, topic, Handled()) as consumer:
        own_broker.signal(signal.SIGSTOP)
        try:
            with pytest.raises(PublishError, match="did not answer within"):
                consumer.publish(f"{topic}-out", b"x", timeout_seconds=0.2)
        finally:
            own_broker.signal(signal.SIGCONT)


def test_what_the_broker_takes_at_once_is_not_exceeded(own_broker: Broker, topic: str) -> None:
    own_broker.stop()
    own_broker.settings += ["max_inflight_messages 1", "log_type all"]
    own_broker.start()

    def does(message: Message) -> None:
        consumer.publish(f"{topic}-out", message.payload)

    handled = Handled(does)
    with (
        consuming(own_broker, f"{topic}/+", handled, workers=8) as consumer,
        connected(own_broker, f"{topic}-out") as (client, received),
    ):
        for number in range(100):
            client.publish(f"{topic}/{number}", b"x", qos=1)
        eventually(lambda: len(received) == 100)
    assert "eceive maximum" not in own_broker.log()


def test_a_session_is_left_with_nothing_in_it(broker: Broker, topic: str) -> None:
    handled = Handled()
    stop = threading.Event()
    with connected(broker) as (client, _):
        with consuming(broker, f"{topic}/+", handled, client_id=topic, consumers=2, share_name="s"):
            pass
        publish(client, f"{topic}/a", *payloads(300))
        leaving = Consumer(new_client(topic), f"{topic}/+", handled, consumers=2, share_name="s", receive_maximum=20)
        assert leaving.leave(stop, "127.0.0.1", broker.port)
        assert handled.payloads == payloads(300)
        publish(client, f"{topic}/a", b"more")
        # Now there is no session to leave.
        again = Consumer(new_client(topic), f"{topic}/+", handled, consumers=2, share_name="s")
        assert again.leave(stop, "127.0.0.1", broker.port)
        assert len(handled.messages) == 300


def test_told_to_stop_while_it_leaves_the_session_goes_on(
    broker: Broker, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    def does(message: Message) -> None:
        raise ConnectionError("away")

    stop = threading.Event()
    with connected(broker) as (client, _):
        with consuming(broker, topic, Handled(), client_id=topic):
            pass
        publish(client, topic, *payloads(10))
        failing = Handled(does)
        leaving = Consumer(new_client(topic), topic, failing)
        threading.Thread(target=lambda: eventually(lambda: failing.begun) and stop.set(), daemon=True).start()
        assert not leaving.leave(stop, "127.0.0.1", broker.port)
        assert f"the session of {topic} goes on, with what it holds" in caplog.text
        handled = Handled()
        with consuming(broker, topic, handled, client_id=topic):
            eventually(lambda: handled.payloads == payloads(10))


PROGRAM = """
import signal, sys, threading, time
import paho.mqtt.client as mqtt
from mqtt_delivery import Consumer
port, topic, file = int(sys.argv[1]), sys.argv[2], open(sys.argv[3], "ab", buffering=0)
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
def handle(message):
    time.sleep(0.005)
    file.write(message.payload + b"\\n")
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=topic, protocol=mqtt.MQTTv5)
consumer = Consumer(client, topic + "/+", handle, receive_maximum=200).connect("127.0.0.1", port)
print("connected", flush=True)
raise SystemExit(0 if consumer.run(stop) else 1)
"""


@pytest.mark.parametrize(("sign", "code", "most_twice"), [(signal.SIGTERM, 0, 0), (signal.SIGKILL, -9, 200)])
def test_ended_with_500_queued_nothing_is_lost_and_a_clean_stop_repeats_nothing(
    broker: Broker, topic: str, tmp_path: Path, sign: signal.Signals, code: int, most_twice: int
) -> None:
    program, results = tmp_path / "program.py", tmp_path / "results"
    program.write_text(PROGRAM)
    results.touch()

    def start() -> subprocess.Popen[str]:
        arguments = [sys.executable, str(program), str(broker.port), topic, str(results)]
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "connected\n"
        return process

    def lines() -> list[bytes]:
        return results.read_bytes().split()

    with consuming(broker, f"{topic}/+", Handled(), client_id=topic):
        pass
    with connected(broker) as (client, _):
        for number in range(500):
            client.publish(f"{topic}/{number % 10}", b"%d" % number, qos=1).wait_for_publish(10)
    for _ in range(3):
        count = len(lines())
        process = start()
        eventually(lambda count=count: len(lines()) > count + 30)
        os.kill(process.pid, sign)
        assert process.wait(10) == code
    process = start()
    eventually(lambda: set(lines()) == set(payloads(500)))
    process.terminate()
    assert process.wait(10) == 0
    twice = sum(count > 1 for count in Counter(lines()).values())
    print(f"queued 500, processed {len(set(lines()))}, twice {twice}")
    assert twice <= most_twice


def test_memory_stays_flat_in_a_flood(broker: Broker, topic: str, tmp_path: Path) -> None:
    program, results = tmp_path / "program.py", tmp_path / "results"
    program.write_text(PROGRAM.replace("    time.sleep(0.005)\n", ""))
    results.touch()
    arguments = [sys.executable, str(program), str(broker.port), topic, str(results)]

    def lines() -> int:
        return results.read_bytes().count(b"\n")

    def mebibytes(pid: int) -> float:
        return psutil.Process(pid).memory_info().rss / 2**20

    with consuming(broker, f"{topic}/+", Handled(), client_id=topic):
        pass
    with connected(broker) as (client, _):
        for number in range(20_000):
            info = client.publish(f"{topic}/{number % 100}", b"x" * 1000, qos=1)
        info.wait_for_publish(60)  # pyright: ignore[reportPossiblyUnboundVariable] (there were many)
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL) as process:
        # By now the allocator has the memory for all messages in flight.
        eventually(lambda: lines() > 10_000)
        before = mebibytes(process.pid)
        eventually(lambda: lines() >= 20_000)
        after = mebibytes(process.pid)
        process.terminate()
    print(f"after 10,000 of 20,000 messages {before:.1f} MiB, after all {after:.1f} MiB")
    # Mosquitto 2.0.11 sends all of them ahead, sometimes earlier and sometimes later.
    assert after < before + 8


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    PahoMqttInstrumentor().instrument(tracer_provider=provider, process_spans=False)
    yield exporter
    PahoMqttInstrumentor().uninstrument()


def test_each_attempt_has_a_span_that_says_what_happened(
    broker: Broker, topic: str, exporter: InMemorySpanExporter
) -> None:
    def does(message: Message) -> None:
        get_current_span().add_event("inside")
        if message.attempt == 1:
            raise Retry("echo answered 500", "500")
        if message.attempt == 2:
            raise SystemExit("why")
        raise Reject("never \ud800", "422")

    with (
        consuming(broker, topic, Handled(does), message_id=lambda message: "an-id", wait=wait_fixed(0.01)),
        connected(broker, f"dead-letter/{topic}") as (client, dead),
    ):
        publish(client, topic, b"x")
        eventually(lambda: dead)
    spans = [span for span in exporter.get_finished_spans() if span.name == f"process {topic}"]
    assert len({span.context and span.context.trace_id for span in spans}) == 1
    attributes = [dict(span.attributes or {}) for span in spans]
    assert [found["error.type"] for found in attributes] == ["500", "SystemExit", "422"]
    assert [found.get("mqtt_delivery.attempt") for found in attributes] == [None, 2, 3]
    assert all(found["messaging.message.id"] == "an-id" for found in attributes)
    assert attributes[-1]["messaging.mqtt.dead_letter"] == f"dead-letter/{topic}"
    assert all([event.name for event in span.events] == ["inside", "exception"] for span in spans)
    assert spans[-1].status.description == "never ?"
    # The exporter can encode only valid text.
    for event in spans[-1].events:
        for value in (event.attributes or {}).values():
            str(value).encode()


def test_what_happens_is_measured(broker: Broker, topic: str, reader: InMemoryMetricReader) -> None:
    assert metrics.get_meter_provider() is not None
    go_on = threading.Event()

    def does(message: Message) -> None:
        if message.payload == b"wait":
            go_on.wait(20)
        if message.payload == b"again" and message.attempt == 1:
            raise ConnectionError
        if message.payload == b"bad":
            raise Reject("bad", "400")

    def made_at(message: Message) -> datetime:
        return datetime.now(UTC) - timedelta(seconds=10)

    handled = Handled(does)
    options = {"message_id": lambda message: message.payload.decode(), "remembered_ids": 10}
    with (
        consuming(broker, topic, handled, made_at=made_at, silent_seconds=0.0, **options),
        connected(broker) as (client, _),
    ):
        publish(client, topic, b"again", b"bad", b"again", b"wait", b"more")
        eventually(lambda: handled.begun[-1:] and handled.begun[-1].payload == b"wait")
        found = values(reader)
        assert found["mqtt_delivery.consumer.in_flight"] == [2]
        assert found["mqtt_delivery.consumer.waiting"] == [1]
        assert found["mqtt_delivery.consumer.oldest.age"][0] > 0
        assert found["mqtt_delivery.consumer.retries"] == [1]
        assert found["mqtt_delivery.consumer.dead_letters"] == [1]
        assert found["mqtt_delivery.consumer.duplicates"] == [1]
        assert found["mqtt_delivery.consumer.keys.silent"] == [1]
        assert found["mqtt_delivery.consumer.message.age"][0] >= 10
        go_on.set()
        eventually(lambda: values(reader)["mqtt_delivery.consumer.in_flight"] == [0])
