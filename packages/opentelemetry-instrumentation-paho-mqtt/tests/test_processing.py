# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""The process span, with a real broker."""

import asyncio
import contextlib
import gc
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from opentelemetry import baggage, context, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.instrumentation.paho_mqtt import message_links, process_batch, process_span
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.trace import SpanKind, StatusCode
from paho.mqtt.enums import CallbackAPIVersion
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
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
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
    assert [link.context for link in process.links] == [process.parent]
    assert process.status.status_code is StatusCode.UNSET
    attributes = dict(process.attributes)
    assert attributes.pop("messaging.mqtt.context_source", "user_properties") == "user_properties"
    assert attributes == {
        "messaging.system": "mqtt",
        "messaging.destination.name": topic,
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.destination.template": topic,
        "messaging.client.id": "gateway",
        "messaging.message.body.size": 6,
        "server.address": "127.0.0.1",
        "server.port": broker.port,
        "network.peer.address": "127.0.0.1",
        "network.peer.port": broker.port,
        "messaging.mqtt.qos": qos,
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
        ([("traceparent", TRACEPARENT), ("traceparent", "garbage")], "duplicate"),
        ([("Traceparent", TRACEPARENT)], "wrong_case"),
    ],
)
def test_a_message_without_usable_context_is_a_tagged_root(spans, user_properties, reason):
    offline_client()._handle_on_message(received_message(user_properties))
    (span,) = spans.processed()
    assert span.parent is None
    assert span.attributes["mqtt.missing_context"] is True
    assert span.attributes["mqtt.missing_context_reason"] == reason
    assert "messaging.mqtt.context_source" not in span.attributes


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
    assert process.attributes["messaging.mqtt.retain"] is True
    assert publish.attributes["messaging.mqtt.retain"] is True
    assert "mqtt.missing_context" not in process.attributes
    client.publish(topic, b"", retain=True, qos=1).wait_for_publish(10)


@pytest.mark.usefixtures("instrumented")
def test_a_repeated_delivery_is_marked(spans):
    message = received_message()
    message.dup = True
    offline_client()._handle_on_message(message)
    assert spans.processed()[0].attributes["messaging.mqtt.dup"] is True


@pytest.mark.usefixtures("instrumented")
def test_one_span_however_many_filters_match(connect: Connect, spans, topic, inbox):
    client = connect(f"{topic}/#")
    client.message_callback_add(f"{topic}/#", inbox)
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
@pytest.mark.parametrize("filtered", [False, True])
def test_an_exception_that_paho_suppresses_is_recorded_all_the_same(spans, inbox, caplog, filtered):
    def fail(*_):
        raise LookupError("unknown sensor")

    client = offline_client(fail)
    client.suppress_exceptions = True
    client.enable_logger()
    if filtered:
        client.message_callback_add("topic", fail)
        client.message_callback_add("#", inbox)
    client._handle_on_message(received_message())
    (span,) = spans.processed()
    assert span.attributes["error.type"] == "LookupError"
    assert span.status.status_code is StatusCode.ERROR
    assert [event.name for event in span.events] == ["exception"]
    assert len(inbox.messages) == filtered
    assert "Caught exception in" in caplog.text
    assert "_easy_log" not in vars(client)


@pytest.mark.usefixtures("instrumented")
def test_a_log_method_of_the_user_s_own_stays(spans):
    def on_message(*_: Any) -> None:
        if len(logged) == 1:
            vars(client)["_easy_log"] = other
        raise LookupError("handler")

    def own(level: Any, message: str, *args: Any) -> None:
        logged.append(message)

    def other(level: Any, message: str, *args: Any) -> None:
        logged.append("other")

    logged: list[str] = []
    client = offline_client(on_message)
    client.suppress_exceptions = True
    vars(client)["_easy_log"] = own
    client._handle_on_message(received_message())
    assert vars(client)["_easy_log"] is own
    client._handle_on_message(received_message())
    assert vars(client)["_easy_log"] is other
    assert logged == ["Caught exception in on_message: %s", "other"]
    assert [span.attributes.get("error.type") for span in spans.processed(2)] == ["LookupError", None]


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("links", [True, False])
def test_what_surrounds_the_handling_stays_in_its_context(tracer_provider, spans, links):
    key = context.create_key("own")
    surroundings = baggage.set_baggage("tenant", "blue", baggage.set_baggage("site", "here", context.set_value(key, 1)))
    with tracer_provider.get_tracer("test").start_as_current_span("ambient", context=surroundings):
        token = context.attach(trace.set_span_in_context(trace.get_current_span(), surroundings))
        carried = [("traceparent", TRACEPARENT), ("baggage", "tenant=red,device=1")]
        with process_span(received_message(carried), links=links) as span:
            assert context.get_value(key) == 1
            assert dict(baggage.get_all()) == {"tenant": "red", "site": "here", "device": "1"}
            assert trace.get_current_span() is span
        with process_span(received_message()):
            assert dict(baggage.get_all()) == {"tenant": "blue", "site": "here"}
        context.detach(token)
    assert spans.processed(2)[1].parent is None


@pytest.mark.usefixtures("instrumented")
def test_what_other_threads_log_meanwhile_is_no_failure_of_the_handler(spans):
    def on_message(client, *_):
        thread = threading.Thread(target=client._easy_log, args=(mqtt.MQTT_LOG_ERR, "Caught exception in x: %s", error))
        thread.start()
        thread.join()
        client._easy_log(mqtt.MQTT_LOG_ERR, "failed to receive on socket: %s", error)

    error = OSError("connection lost")
    client = offline_client(on_message)
    client.suppress_exceptions = True
    client._handle_on_message(received_message())
    assert spans.processed()[0].status.status_code is StatusCode.UNSET


@pytest.mark.usefixtures("instrumented")
def test_a_system_exit_ends_the_span_and_is_no_error(spans):
    def on_message(*_):
        raise SystemExit

    with pytest.raises(SystemExit):
        offline_client(on_message)._handle_on_message(received_message())
    assert spans.processed()[0].status.status_code is StatusCode.UNSET
    assert context.get_current() == Context()


@pytest.mark.usefixtures("instrumented")
def test_messages_leave_no_more_to_the_garbage_collector_than_those_of_raw_paho(spans, topic):
    def garbage(handle: Callable[..., None]) -> int:
        messages = [received_message([("traceparent", TRACEPARENT)]) for _ in range(100)]
        gc.collect()
        for message in messages:
            handle(client, message)
        return gc.collect()

    client = offline_client(lambda client, userdata, message: client.publish(topic))
    gc.disable()
    try:
        raw = garbage(mqtt.Client._handle_on_message.__wrapped__)  # pyright: ignore[reportFunctionMemberAccess] (wraps')
        assert garbage(mqtt.Client._handle_on_message) < raw + 100
    finally:
        gc.enable()


class UnprintableError(Exception):
    """An exception without a text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("error", [ValueError("\ud800 from the payload"), UnprintableError()])
def test_no_exception_of_a_handler_costs_the_exporter_its_batch(spans, error):
    def on_message(*_):
        raise error

    with pytest.raises(type(error)):
        offline_client(on_message)._handle_on_message(received_message())
    encode_spans(spans.processed())


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("topic", [b"\xff/\xfe", "sensors/ä\0".encode()])
def test_no_topic_costs_the_exporter_its_batch(spans, topic):
    offline_client()._handle_on_message(received_message(topic=topic))
    encode_spans(spans.processed())


def test_links_instead_of_parents(instrument, tracer_provider, spans):
    instrument(process_links=True)
    with tracer_provider.get_tracer("test").start_as_current_span("what runs") as running:
        offline_client()._handle_on_message(received_message([("traceparent", TRACEPARENT)]))
    (span,) = spans.processed()
    assert span.parent.span_id == running.get_span_context().span_id
    assert [trace.format_span_id(link.context.span_id) for link in span.links] == ["b7ad6b7169203331"]


def test_a_single_string_is_no_list_of_keys(instrument):
    with pytest.raises(TypeError, match="not the string 'device'"):
        instrument(baggage_keys="device")


@pytest.mark.parametrize(
    ("keys", "taken"),
    [(None, {"tenant": "blue", "device": "7"}), (["device", "other"], {"device": "7"}), ([], {})],
)
@pytest.mark.parametrize("process_spans", [True, False])
def test_only_baggage_that_is_named_is_taken(instrument, keys, taken, process_spans):
    instrument(baggage_keys=keys, process_spans=process_spans)
    seen: list[Any] = []

    def on_message(client, userdata, message):
        with process_span(message):
            seen.append(dict(baggage.get_all()))

    fields = [("traceparent", TRACEPARENT), ("baggage", "tenant=blue,device=7")]
    offline_client(on_message)._handle_on_message(received_message(fields))
    assert seen == [taken]


@pytest.mark.usefixtures("instrumented")
def test_below_an_active_span_the_publish_span_is_only_linked(tracer_provider, spans):
    """As the conventions recommend for a process span in the scope of another span."""
    message = received_message([("traceparent", TRACEPARENT), ("baggage", "tenant=blue")])
    seen: list[Any] = []
    client = offline_client(lambda *_: seen.append(baggage.get_baggage("tenant")))
    with tracer_provider.get_tracer("test").start_as_current_span("what runs") as running:
        client._handle_on_message(message)
    (span,) = spans.processed()
    assert span.parent.span_id == running.get_span_context().span_id
    assert [trace.format_span_id(link.context.span_id) for link in span.links] == ["b7ad6b7169203331"]
    assert seen == ["blue"]


def test_the_publish_span_as_the_parent_below_an_active_span(instrument, tracer_provider, spans):
    instrument(process_links=False)
    with tracer_provider.get_tracer("test").start_as_current_span("what runs") as running:
        offline_client()._handle_on_message(received_message([("traceparent", TRACEPARENT)]))
    (span,) = spans.processed()
    assert trace.format_span_id(span.parent.span_id) == "b7ad6b7169203331"
    assert [link.context.span_id for link in span.links] == [
        span.parent.span_id,
        running.get_span_context().span_id,
    ]


@pytest.mark.usefixtures("instrumented")
def test_a_span_that_has_ended_is_not_active(tracer_provider, spans):
    """A network thread that was started inside a span may keep that span as its current one."""
    with tracer_provider.get_tracer("test").start_as_current_span("start", end_on_exit=False) as started:
        started.end()
        offline_client()._handle_on_message(received_message([("traceparent", TRACEPARENT)]))
    (span,) = spans.processed()
    assert trace.format_span_id(span.parent.span_id) == "b7ad6b7169203331"
    assert [link.context.span_id for link in span.links] == [
        span.parent.span_id,
        started.get_span_context().span_id,
    ]


def test_a_message_handed_to_a_thread(connect: Connect, broker, instrument, spans, topic):
    def work() -> None:
        message = handed_over.get()
        with process_span(message, client=client) as span:
            seen.append((span, trace.get_current_span(), baggage.get_baggage("tenant")))
        after.append(context.get_current())

    seen: list[Any] = []
    after: list[Context] = []
    handed_over: SimpleQueue[mqtt.MQTTMessage] = SimpleQueue()
    instrument(process_spans=False, process_hook=lambda span, message: span.set_attribute("hooked", message.mid))
    client = connect(topic, on_message=lambda client, userdata, message: handed_over.put(message))
    token = context.attach(baggage.set_baggage("tenant", "blue"))
    client.publish(topic, qos=1)
    context.detach(token)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    (process,) = spans.processed(1)
    assert process.parent.span_id == spans.published(1)[0].context.span_id
    assert process.attributes["server.port"] == broker.port
    assert process.attributes["hooked"] == 1
    ((span, current, tenant),) = seen
    assert (span, tenant) == (current, "blue")
    assert after == [Context()]


@pytest.mark.usefixtures("instrumented")
def test_a_message_handed_to_a_task_does_not_join_the_span_that_has_ended(spans):
    async def main() -> None:
        def on_message(client, userdata, message):
            tasks.append(asyncio.get_running_loop().create_task(work(message)))

        tasks: list[asyncio.Task[None]] = []
        offline_client(on_message)._handle_on_message(received_message([("traceparent", TRACEPARENT)]))
        await asyncio.gather(*tasks)

    async def work(message: mqtt.MQTTMessage) -> None:
        with process_span(message):
            await asyncio.sleep(0)

    asyncio.run(main())
    assert {trace.format_span_id(span.parent.span_id) for span in spans.processed(2)} == {"b7ad6b7169203331"}


@pytest.mark.usefixtures("instrumented")
def test_a_handler_that_opens_the_span_itself_has_the_one_that_is_open(spans):
    def on_message(client, userdata, message):
        with process_span(message) as span:
            seen.append(span.get_span_context())

    seen: list[trace.SpanContext] = []
    offline_client(on_message)._handle_on_message(received_message())
    assert [span.context for span in spans.processed(1)] == seen


@pytest.mark.usefixtures("instrumented")
def test_an_exception_inside_process_span_is_recorded_and_goes_on(spans):
    with pytest.raises(LookupError), process_span(received_message()):
        raise LookupError
    assert spans.processed()[0].attributes["error.type"] == "LookupError"


@pytest.mark.usefixtures("instrumented")
def test_process_span_with_a_link(tracer_provider, spans):
    message = received_message([("traceparent", TRACEPARENT), ("baggage", "tenant=blue")])
    with tracer_provider.get_tracer("test").start_as_current_span("job") as job, process_span(message, links=True):
        assert baggage.get_baggage("tenant") == "blue"
    (span,) = spans.processed()
    assert span.parent.span_id == job.get_span_context().span_id
    assert len(span.links) == 1


@pytest.mark.usefixtures("instrumented")
def test_a_batch_is_one_span_with_a_link_to_each_message(tracer_provider, spans):
    traceparents = [f"00-{number:032x}-{number:016x}-01" for number in range(1, 4)]
    messages = [received_message([("traceparent", traceparent)]) for traceparent in traceparents]
    with (
        tracer_provider.get_tracer("test").start_as_current_span("job") as job,
        process_batch([*messages, received_message()]),
    ):
        assert trace.get_current_span() is not job
    (span,) = spans.processed(1)
    assert span.name == "process"
    assert span.parent.span_id == job.get_span_context().span_id
    assert [link.context.span_id for link in span.links] == [1, 2, 3]
    assert dict(span.attributes) == {
        "messaging.system": "mqtt",
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.destination.name": "topic",
        "messaging.batch.message_count": 4,
    }
    assert [link.context.span_id for link in message_links(messages)] == [1, 2, 3]


@pytest.mark.usefixtures("instrumented")
def test_a_batch_over_several_topics(spans):
    client = offline_client()
    with pytest.raises(LookupError), process_batch([received_message(), received_message(topic=b"b")], client=client):
        raise LookupError
    (span,) = spans.processed(1)
    assert span.name == "process"
    assert "messaging.destination.name" not in span.attributes
    assert span.attributes["error.type"] == "LookupError"


@pytest.mark.usefixtures("instrumented")
def test_an_empty_batch(spans):
    with process_batch([]):
        pass
    assert spans.processed()[0].attributes["messaging.batch.message_count"] == 0


@pytest.mark.parametrize("suppressed", [True, False])
def test_without_instrumentation_process_spans_record_nothing(instrument, spans, suppressed):
    if suppressed:
        instrument()
    with suppress_instrumentation() if suppressed else contextlib.nullcontext():
        with process_span(received_message()) as span:
            assert not span.is_recording()
        with process_batch([received_message()]) as span:
            assert not span.is_recording()
    assert spans.started == 0


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
    encode_spans([span])
