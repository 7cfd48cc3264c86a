"""The process span, against a real broker."""

from collections.abc import Callable
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from opentelemetry import baggage, context, trace
from opentelemetry.context import Context
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.trace import SpanKind, StatusCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

Connect = Callable[..., mqtt.Client]
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def received_message(
    user_properties: list[tuple[str, str]] | None = None, payload: bytes = b"x", topic: bytes = b"topic"
) -> mqtt.MQTTMessage:
    message = mqtt.MQTTMessage(topic=topic)
    message.payload = payload
    if user_properties is not None:
        message.properties = Properties(PacketTypes.PUBLISH)
        message.properties.UserProperty = user_properties
    return message


def offline_client(on_message: Callable[..., Any] | None = None) -> mqtt.Client:
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.on_message = on_message
    return client


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_received_message_is_a_child_of_its_publish_span(connect: Connect, broker, spans, topic, inbox, qos):
    client = connect(topic, on_message=inbox, client_id="gateway")
    client.publish(topic, "twenty", qos)
    (process,) = spans.processed()
    (publish,) = spans.published()
    assert process.name == f"process {topic}"
    assert process.kind is SpanKind.CONSUMER
    assert process.parent.span_id == publish.context.span_id
    assert process.context.trace_id == publish.context.trace_id
    assert process.parent.is_remote
    assert process.status.status_code is StatusCode.UNSET
    attributes = dict(process.attributes)
    assert attributes.pop("mqtt.context_source", "user_properties") == "user_properties"
    assert attributes == {
        "messaging.system": "mqtt",
        "messaging.destination.name": topic,
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.client.id": "gateway",
        "messaging.message.body.size": 6,
        "server.address": "127.0.0.1",
        "server.port": broker.port,
        "mqtt.qos": qos,
    }


@pytest.mark.usefixtures("instrumented")
def test_the_handler_runs_inside_the_span_and_with_the_baggage(connect: Connect, spans, topic):
    def on_message(*_):
        seen.append((trace.get_current_span().get_span_context().span_id, baggage.get_baggage("tenant")))

    seen: list[Any] = []
    client = connect(topic, on_message=on_message)
    token = context.attach(baggage.set_baggage("tenant", "blue"))
    client.publish(topic)
    context.detach(token)
    (process,) = spans.processed()
    assert seen == [(process.context.span_id, "blue")]


@pytest.mark.usefixtures("instrumented")
def test_nothing_leaks_from_one_message_to_the_next(spans):
    client = offline_client(lambda *_: None)
    client._handle_on_message(received_message([("traceparent", TRACEPARENT), ("baggage", "a=1")]))
    assert context.get_current() == Context()
    client._handle_on_message(received_message())
    first, second = spans.processed(2)
    assert trace.format_trace_id(first.context.trace_id) in TRACEPARENT
    assert second.parent is None


@pytest.mark.usefixtures("instrumented")
def test_a_message_without_context_does_not_become_a_child_of_what_runs(tracer_provider, spans):
    client = offline_client()
    with tracer_provider.get_tracer("test").start_as_current_span("unrelated"):
        client._handle_on_message(received_message())
    assert spans.processed()[0].parent is None


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize(
    ("user_properties", "reason"),
    [
        (None, "absent"),
        ([], "absent"),
        ([("traceparent", "garbage")], "invalid"),
        ([("traceparent", TRACEPARENT)] * 2, "duplicate"),
    ],
)
def test_a_message_without_usable_context_is_a_tagged_root(spans, user_properties, reason):
    offline_client()._handle_on_message(received_message(user_properties))
    (span,) = spans.processed()
    assert span.parent is None
    assert span.attributes["mqtt.missing_context"] is True
    assert span.attributes["mqtt.missing_context_reason"] == reason
    assert "mqtt.context_source" not in span.attributes


@pytest.mark.usefixtures("instrumented")
def test_mqtt_3_messages_are_tagged_roots(connect: Connect, spans, topic, inbox):
    connect(topic, on_message=inbox, protocol=mqtt.MQTTv311).publish(topic, "x", qos=1)
    inbox.wait_for()
    assert spans.processed()[0].attributes["mqtt.missing_context_reason"] == "absent"


@pytest.mark.usefixtures("instrumented")
def test_a_retained_message_is_linked(connect: Connect, spans, topic, inbox):
    connect().publish(topic, "x", qos=1, retain=True).wait_for_publish(10)
    client = connect(topic, on_message=inbox)
    (process,) = spans.processed()
    (publish,) = spans.published()
    assert process.parent is None
    assert [link.context.span_id for link in process.links] == [publish.context.span_id]
    assert process.attributes["mqtt.retain"] is True
    assert publish.attributes["mqtt.retain"] is True
    assert "mqtt.missing_context" not in process.attributes
    client.publish(topic, b"", retain=True, qos=1).wait_for_publish(10)


@pytest.mark.usefixtures("instrumented")
def test_a_repeated_delivery_is_marked(spans):
    message = received_message()
    message.dup = True
    offline_client()._handle_on_message(message)
    assert spans.processed()[0].attributes["mqtt.dup"] is True


@pytest.mark.usefixtures("instrumented")
def test_one_span_however_many_filters_match(connect: Connect, spans, topic, inbox):
    client = connect("tests/#")
    client.message_callback_add("tests/#", inbox)
    client.message_callback_add(topic, inbox)
    client.publish(topic, qos=1)
    inbox.wait_for(2)
    spans.processed(1)


@pytest.mark.usefixtures("instrumented")
def test_an_exception_of_the_handler_is_recorded_and_goes_on(spans):
    error = LookupError("unknown sensor")

    def on_message(*_):
        raise error

    with pytest.raises(LookupError) as caught:
        offline_client(on_message)._handle_on_message(received_message())
    assert caught.value is error
    (span,) = spans.processed()
    assert span.attributes["error.type"] == "LookupError"
    assert span.status.status_code is StatusCode.ERROR
    assert [event.name for event in span.events] == ["exception"]
    assert context.get_current() == Context()


@pytest.mark.usefixtures("instrumented")
def test_suppression_is_respected(spans, inbox):
    with suppress_instrumentation():
        offline_client(inbox)._handle_on_message(received_message())
    assert len(inbox.messages) == 1
    assert spans.started == 0


def test_the_hook_sees_the_span_and_the_message(instrument, spans):
    instrument(process_hook=lambda span, message: span.set_attribute("messaging.message.id", message.payload.decode()))
    offline_client()._handle_on_message(received_message(payload=b"17"))
    assert spans.processed()[0].attributes["messaging.message.id"] == "17"


def test_an_exception_of_the_hook_costs_no_message(instrument, spans, inbox, caplog):
    def process_hook(*_):
        raise RuntimeError("hook")

    instrument(process_hook=process_hook)
    offline_client(inbox)._handle_on_message(received_message())
    assert len(inbox.messages) == 1
    assert spans.processed()[0].status.status_code is StatusCode.UNSET
    assert "process_hook" in caplog.text


@pytest.mark.usefixtures("instrumented")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    topic=st.binary(),
    payload=st.binary(),
    user_properties=st.one_of(
        st.none(),
        st.lists(st.tuples(st.one_of(st.just("traceparent"), st.text()), st.one_of(st.just(TRACEPARENT), st.text()))),
    ),
    flags=st.tuples(st.booleans(), st.booleans()),
)
@example(
    topic=b"\xff", payload=b"x" * 1_000_000, user_properties=[("traceparent", TRACEPARENT)] * 2, flags=(True, True)
)
@example(topic=b"a", payload=b"[" * 100_000, user_properties=None, flags=(False, False))
def test_any_message_reaches_its_handler_in_one_process_span(spans, inbox, topic, payload, user_properties, flags):
    message = received_message(user_properties, payload, topic)
    message.retain, message.dup = flags
    seen, ended = len(inbox.messages), len(spans.ended)
    offline_client(inbox)._handle_on_message(message)
    assert inbox.messages[seen:] == [message]
    (span,) = spans.ended[ended:]
    assert span.name.startswith("process")
    assert span.name.encode("utf-8")
