"""What a user sees of a running stack: traces as the backend holds them."""

import json
import re
import time
from collections.abc import Callable
from uuid import uuid4

import paho.mqtt.client as mqtt
import pytest
import requests
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from harness import Stack, eventually, reading
from stack.part import local_url
from stack.trace import children, roots


def test_verify_shows_one_reading_as_one_connected_trace_of_four_spans(stack: Stack) -> None:
    done = stack.run("verify")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    found = [line.lstrip("│├└─ ").split("  ")[0] for line in lines[1:5]]
    assert found == ["publish sensors/sensor-001/reading", "process sensors/sensor-001/reading", "POST", "POST /echo"]
    trace_id = re.fullmatch(r"One reading, one trace: http://127\.0\.0\.1:\d+/traces/([0-9a-f]{32})", lines[5])
    assert trace_id
    spans = stack.viewer.trace(trace_id[1])
    assert [(span.kind, span.service) for span in sorted(spans, key=lambda span: span.start)] == [
        ("Producer", "producer"),
        ("Consumer", "consumer"),
        ("Client", "consumer"),
        ("Server", "echo"),
    ]


def test_the_publish_span_lasts_until_the_acknowledgement(stack: Stack) -> None:
    since = time.time_ns() - 60 * 10**9
    ids = eventually(lambda: stack.viewer.trace_ids(since, time.time_ns(), ("messaging.operation.name", "publish")))
    (publish,) = [span for span in stack.viewer.trace(ids[0]) if span.kind == "Producer"]
    # A round trip through the broker takes some 100 µs; a span closed at the hand-over takes a tenth of that.
    assert publish.milliseconds > 0.1


@pytest.mark.parametrize("version", ["mqttv311", "mqttv5"])
def test_a_message_without_context_becomes_a_tagged_root_and_still_reaches_echo(stack: Stack, version: str) -> None:
    since = time.time_ns()
    sent = reading(device_id="legacy-001")
    stack.publish_with_mosquitto_pub("sensors/legacy-001/reading", json.dumps(sent), "-V", version)
    spans = stack.spans_of("messaging.message.id", str(sent["message_id"]), count=3, since=since)
    (root,) = roots(spans)
    assert (root.name, root.kind, root.parent_id) == ("process sensors/legacy-001/reading", "Consumer", None)
    assert root.attributes["mqtt.missing_context"] is True
    assert root.attributes["mqtt.missing_context_reason"] == "absent"
    (client,) = children(spans, root)
    (server,) = children(spans, client)
    assert (server.name, server.service, server.attributes["http.response.status_code"]) == ("POST /echo", "echo", 200)


@pytest.mark.parametrize(
    ("traceparents", "reason"),
    [
        ([f"00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333{digit}-01" for digit in "12"], "duplicate"),
        (["00-00000000000000000000000000000000-b7ad6b7169203331-01"], "invalid"),
    ],
)
def test_an_unusable_context_becomes_a_tagged_root(stack: Stack, traceparents: list[str], reason: str) -> None:
    since = time.time_ns()
    sent = reading(device_id="legacy-002")
    options = [word for value in traceparents for word in ("-D", "publish", "user-property", "traceparent", value)]
    stack.publish_with_mosquitto_pub("sensors/legacy-002/reading", json.dumps(sent), "-V", "mqttv5", *options)
    spans = stack.spans_of("messaging.message.id", str(sent["message_id"]), count=3, since=since)
    (root,) = roots(spans)
    assert root.attributes["mqtt.missing_context_reason"] == reason
    assert root.parent_id is None


def test_a_foreign_publishers_trace_goes_on(stack: Stack) -> None:
    since = time.time_ns()
    message_id, trace_id, span_id = stack.publish_in_foreign_trace("foreign-001")
    spans = stack.spans_of("messaging.message.id", message_id, count=3, since=since)
    assert {span.trace_id for span in spans} == {trace_id}
    (root,) = roots(spans)
    assert root.parent_id == span_id
    assert "mqtt.missing_context" not in root.attributes


def test_a_byte_order_mark_is_a_character_like_others(stack: Stack) -> None:
    since = time.time_ns()
    sent = reading(device_id="marked-001")
    mark = "\ufeff"
    options = [*("-D", "publish", "user-property", "x", mark), *("-D", "publish", "content-type", mark)]
    options += ["-D", "publish", "response-topic", f"answers/{mark}"]
    stack.publish_with_mosquitto_pub("sensors/marked-001/reading", json.dumps(sent), "-V", "mqttv5", *options)
    assert stack.spans_of("messaging.message.id", str(sent["message_id"]), count=3, since=since)


@pytest.mark.parametrize("payload", ["not JSON", "[]", "", '{"message_id": 1}', '{"temperature_c": NaN}', "[" * 5000])
def test_a_payload_that_is_no_reading_is_refused_by_echo_with_a_reason(stack: Stack, payload: str) -> None:
    since = time.time_ns()
    topic = f"sensors/{uuid4().hex[:8]}/reading"
    stack.publish_with_mosquitto_pub(topic, payload)
    # The process span, the request and its answer, and the publish to the dead letters.
    spans = stack.spans_of("messaging.destination.name", topic, count=4, since=since)
    (process,) = roots(spans)
    (server,) = [span for span in spans if span.kind == "Server"]
    assert 400 <= int(server.attributes["http.response.status_code"]) < 500
    assert (process.status, process.attributes["error.type"]) == (
        "Error",
        str(server.attributes["http.response.status_code"]),
    )
    # The consumer keeps working.
    assert stack.run("verify").returncode == 0


def test_every_reading_that_was_published_is_one_whole_trace(new_stack: Callable[..., Stack]) -> None:
    stack = new_stack(DEVICES="5", INTERVAL_SECONDS="0.25")
    since = time.time_ns()
    stack.up()
    eventually(lambda: stack.runtime.log_text("consumer").count("processed reading") > 150)
    stack.stop_part("producer")
    (sent,) = map(int, re.findall(r"stopping after (\d+) readings", stack.runtime.log_text("producer")))
    assert sent > 150

    eventually(lambda: stack.whole_traces(since) >= sent)
    assert stack.whole_traces(since) == len(stack.viewer.trace_ids(since, time.time_ns())) == sent


def test_a_large_body_leaves_nothing_behind_on_its_connection(stack: Stack) -> None:
    # Without a fresh context for each request, uvicorn runs what follows a large body inside that request's span.
    since = time.time_ns()
    url = local_url(stack.settings.echo_port, "/echo")
    with requests.Session() as connection:
        for body in (b"x" * 1_000_000, b"{}", b"{}"):
            connection.post(url, data=body, headers={"User-Agent": f"test-{since}"}, timeout=10)
    spans = stack.spans_of("user_agent.original", f"test-{since}", count=3, since=since)
    assert [(span.name, span.kind, span.parent_id) for span in spans] == [("POST /echo", "Server", None)] * 3
    assert len({span.trace_id for span in spans}) == 3


def test_health_probes_leave_no_trace(stack: Stack) -> None:
    since = time.time_ns() - 3600 * 10**9
    assert stack.run("ps").returncode == 0  # asks /healthz
    assert stack.run("verify").returncode == 0  # by now, the spans before it have arrived too
    assert stack.viewer.trace_ids(since, time.time_ns(), ("url.path", "/echo"))
    assert stack.viewer.trace_ids(since, time.time_ns(), ("url.path", "/healthz")) == []


def test_the_broker_lets_nobody_do_more_than_their_part(stack: Stack) -> None:
    def connect(username: str | None, password: str | None) -> mqtt.Client:
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=username or "", protocol=mqtt.MQTTv5)
        client.username_pw_set(username, password)
        outcome: list[ReasonCode] = []
        client.on_connect = lambda _client, _userdata, _flags, reason_code, _properties: outcome.append(reason_code)
        client.connect("127.0.0.1", stack.settings.mqtt_port)
        client.loop_start()
        eventually(lambda: outcome)
        if outcome[0].is_failure:
            client.loop_stop()
            raise PermissionError(str(outcome[0]))
        return client

    with pytest.raises(PermissionError, match="Not authorized"):
        connect(None, None)
    with pytest.raises(PermissionError, match="Not authorized"):
        connect("producer-once", "wrong")

    client = connect("producer-once", "producer-secret")
    try:
        acknowledgements: list[ReasonCode] = []
        client.on_publish = lambda _client, _userdata, _mid, reason_code, _properties: acknowledgements.append(
            reason_code
        )
        client.publish("dead-letter/sensors/sensor-001/reading", "x", qos=1, properties=Properties(PacketTypes.PUBLISH))
        eventually(lambda: acknowledgements)
        assert str(acknowledgements[0]) == "Not authorized"
    finally:
        client.disconnect()
        client.loop_stop()
