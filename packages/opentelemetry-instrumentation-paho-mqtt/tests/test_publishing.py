# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""The publish span, with a real broker."""

import copy
import time
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import baggage, context, trace
from opentelemetry.instrumentation.paho_mqtt import user_properties_to_context
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.trace import SpanKind, StatusCode
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

Connect = Callable[..., mqtt.Client]
CALLER_TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def publish_properties(**values: Any) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)
    for name, value in values.items():
        setattr(properties, name, value)
    return properties


def offline_client() -> mqtt.Client:
    return mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)


def span_context_in(message: mqtt.MQTTMessage) -> trace.SpanContext:
    assert message.properties is not None
    carried = user_properties_to_context(vars(message.properties)["UserProperty"])
    return trace.get_current_span(carried).get_span_context()


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_one_publish_is_one_span(connect: Connect, broker, spans, topic, qos):
    client = connect(client_id="sensor")
    client.publish(topic, "twenty", qos).wait_for_publish(10)
    (span,) = spans.published()
    assert span.name == "publish"
    assert span.kind is SpanKind.PRODUCER
    assert span.parent is None
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes) == {
        "messaging.system": "mqtt",
        "messaging.destination.name": topic,
        "messaging.operation.type": "send",
        "messaging.operation.name": "publish",
        "messaging.client.id": "sensor",
        "messaging.message.body.size": 6,
        "server.address": "127.0.0.1",
        "server.port": broker.port,
        "network.peer.address": "127.0.0.1",
        "network.peer.port": broker.port,
        "messaging.mqtt.qos": qos,
    }


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_the_span_travels_in_the_message(connect: Connect, spans, topic, inbox, qos):
    connect(topic, on_message=inbox).publish(topic, "x", qos)
    (message,) = inbox.wait_for()
    assert span_context_in(message).span_id == spans.published()[0].context.span_id


@pytest.mark.usefixtures("instrumented")
def test_the_span_is_a_child_of_what_runs(connect: Connect, tracer_provider, spans, topic):
    client = connect()
    with tracer_provider.get_tracer("test").start_as_current_span("reading") as reading:
        client.publish(topic)
    assert spans.published()[0].parent.span_id == reading.get_span_context().span_id


@pytest.mark.usefixtures("instrumented")
def test_baggage_travels_with_the_message(connect: Connect, topic, inbox):
    client = connect(topic, on_message=inbox)
    token = context.attach(baggage.set_baggage("tenant", "blue"))
    client.publish(topic, "x")
    context.detach(token)
    (message,) = inbox.wait_for()
    assert ("baggage", "tenant=blue") in message.properties.UserProperty


@pytest.mark.usefixtures("instrumented")
def test_the_span_is_open_until_the_acknowledgement(connect: Connect, spans, topic):
    class Client(mqtt.Client):
        def _handle_pubackcomp(self, cmd):
            before_acknowledgement.append(len(spans.ended))
            return super()._handle_pubackcomp(cmd)

    before_acknowledgement: list[int] = []
    client = connect(client_class=Client)
    for qos in (1, 2):
        client.publish(topic, qos=qos)
        spans.published(qos)
    assert before_acknowledgement == [0, 1]


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("qos", [1, 2])
def test_an_acknowledgement_before_publish_returns(connect: Connect, spans, topic, qos):
    class Client(mqtt.Client):
        def _send_publish(self, mid, *args, **kwargs):
            result = super()._send_publish(mid, *args, **kwargs)
            packet = {"command": 0x40, "packet": bytearray(mid.to_bytes(2, "big")), "remaining_length": 2}
            vars(self)["_in_packet"].update(packet)
            self._handle_pubackcomp("PUBACK")
            return result

    client = connect(client_class=Client)
    info = client.publish(topic, qos=qos)
    assert info.is_published()
    assert spans.published()[0].status.status_code is StatusCode.UNSET


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("callback_api", list(CallbackAPIVersion))
def test_the_span_covers_no_callback_and_has_ended_when_the_caller_knows_of_the_acknowledgement(
    connect: Connect, spans, topic, callback_api
):
    client = connect(callback_api=callback_api)
    called: list[int] = []
    client.on_publish = lambda *_: called.append(time.time_ns())
    client.publish(topic, qos=1).wait_for_publish(10)
    (span,) = spans.ended
    assert span.end_time <= called[0]


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("qos", [1, 2])
def test_a_refusal_by_the_broker_is_an_error_named_by_its_reason_code(connect: Connect, spans, qos):
    connect().publish("forbidden/topic", qos=qos)
    (span,) = spans.published()
    assert span.attributes["error.type"] == "Not authorized"
    assert span.status.status_code is StatusCode.ERROR


@pytest.mark.usefixtures("instrumented")
def test_an_exception_of_publish_is_recorded_and_goes_on(connect: Connect, spans):
    with pytest.raises(ValueError, match="wildcards"):
        connect().publish("a/#", qos=1)
    (span,) = spans.published()
    assert span.attributes["error.type"] == "ValueError"
    assert span.status.status_code is StatusCode.ERROR
    assert [event.name for event in span.events] == ["exception"]


@pytest.mark.usefixtures("instrumented")
def test_a_dropped_message_is_an_error(spans, topic):
    client = offline_client()
    assert client.publish(topic, qos=0).rc == mqtt.MQTT_ERR_NO_CONN
    (span,) = spans.published()
    assert span.attributes["error.type"] == "MQTT_ERR_NO_CONN"
    assert span.status.status_code is StatusCode.ERROR


@pytest.mark.usefixtures("instrumented")
def test_a_refused_message_is_an_error(spans, topic):
    client = offline_client()
    client.max_queued_messages_set(1)
    client.publish(topic, qos=1)
    assert client.publish(topic, qos=1).rc == mqtt.MQTT_ERR_QUEUE_SIZE
    assert spans.published()[0].attributes["error.type"] == "MQTT_ERR_QUEUE_SIZE"


@pytest.mark.usefixtures("instrumented")
def test_a_message_published_offline_is_no_error_and_ends_when_delivered(broker, spans, topic):
    client = offline_client()
    assert client.publish(topic, qos=1).rc == mqtt.MQTT_ERR_NO_CONN
    assert spans.ended == []
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    (span,) = spans.published()
    assert span.status.status_code is StatusCode.UNSET
    client.disconnect()
    client.loop_stop()


@pytest.mark.usefixtures("instrumented")
def test_the_callers_properties_are_copied_and_not_accumulated_into(connect: Connect, topic, inbox):
    client = connect(topic, on_message=inbox)
    properties = publish_properties(
        UserProperty=[("a", "1")], ContentType="text", MessageExpiryInterval=60, CorrelationData=b"\0\1"
    )
    before = copy.deepcopy(vars(properties))
    for _ in range(3):
        client.publish(topic, qos=1, properties=properties)
    messages = inbox.wait_for(3)
    assert vars(properties) == before
    for message in messages:
        received = message.properties
        assert [name for name, _ in received.UserProperty] == ["a", "traceparent"]
        assert (received.ContentType, received.CorrelationData) == ("text", b"\0\1")
    assert len({span_context_in(message).span_id for message in messages}) == 3


@pytest.mark.usefixtures("instrumented")
def test_what_the_caller_does_to_its_properties_later_does_not_reach_a_queued_message(broker, topic, inbox, connect):
    client = offline_client()
    properties = publish_properties(UserProperty=[("a", "1")])
    client.publish(topic, qos=1, properties=properties)
    vars(properties)["UserProperty"].clear()
    connect(topic, on_message=inbox)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    assert ("a", "1") in inbox.wait_for()[0].properties.UserProperty
    client.disconnect()
    client.loop_stop()


@pytest.mark.usefixtures("instrumented")
def test_a_traceparent_of_the_caller_is_kept_and_linked_to(connect: Connect, spans, topic, inbox):
    own = [("traceparent", CALLER_TRACEPARENT), ("tracestate", "a=1")]
    connect(topic, on_message=inbox).publish(topic, properties=publish_properties(UserProperty=own))
    (message,) = inbox.wait_for()
    assert message.properties.UserProperty == own
    (span,) = spans.published()
    (link,) = span.links
    assert trace.format_span_id(link.context.span_id) == "b7ad6b7169203331"
    assert span.context.trace_id != link.context.trace_id


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("protocol", [mqtt.MQTTv31, mqtt.MQTTv311])
def test_mqtt_3_has_a_span_and_no_properties(connect: Connect, spans, topic, inbox, protocol):
    connect(topic, on_message=inbox, protocol=protocol).publish(topic, b"payload", qos=1)
    (message,) = inbox.wait_for()
    assert (message.payload, message.properties) == (b"payload", None)
    spans.published()


@pytest.mark.usefixtures("instrumented")
def test_suppression_is_respected(connect: Connect, spans, topic, inbox):
    client = connect(topic, on_message=inbox)
    with suppress_instrumentation():
        client.publish(topic, qos=1).wait_for_publish(10)
    (message,) = inbox.wait_for()
    assert not hasattr(message.properties, "UserProperty")
    assert spans.of_kind(SpanKind.PRODUCER) == []


def test_the_hook_sees_the_span_and_the_message(connect: Connect, instrument, spans, topic, inbox):
    def publish_hook(span, *message):
        span.set_attribute("messaging.message.id", "17")
        seen.append(message)

    seen: list[Any] = []
    instrument(publish_hook=publish_hook)
    connect(topic, on_message=inbox).publish(topic, "x", properties=publish_properties(ContentType="text"))
    ((seen_topic, payload, properties),) = seen
    assert (seen_topic, payload, properties.ContentType) == (topic, "x", "text")
    assert spans.published()[0].attributes["messaging.message.id"] == "17"


def test_the_hook_may_add_properties(connect: Connect, instrument, spans, topic, inbox):
    def publish_hook(span, topic, payload, properties):
        properties.UserProperty = ("added", "by the hook")
        properties.MessageExpiryInterval = 60

    instrument(publish_hook=publish_hook)
    connect(topic, on_message=inbox).publish(topic, "x")
    received = inbox.wait_for()[0].properties
    assert [name for name, _ in received.UserProperty] == ["traceparent", "added"]
    assert hasattr(received, "MessageExpiryInterval")


@pytest.mark.usefixtures("instrumented")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    own=st.lists(st.tuples(st.text(), st.one_of(st.text(), st.just("x" * 65_536), st.just("\ud800")))),
    others=st.fixed_dictionaries({}, optional={"ContentType": st.text(), "CorrelationData": st.binary()}),
)
def test_properties_are_packed_as_paho_packs_them(own, others):
    def packed(pack: Callable[[Properties], bytes]) -> object:
        try:
            return pack(properties)
        except Exception as error:
            return type(error)

    client = offline_client()
    client.publish("topic", qos=1, properties=publish_properties(UserProperty=own, **others))
    (message,) = client._out_messages.values()
    assert message.properties is not None
    properties = message.properties
    assert type(properties).pack is not Properties.pack
    assert packed(type(properties).pack) == packed(Properties.pack)


class OwnPack(Properties):
    """Properties with their own ``pack``, whose content paho's attributes do not show."""

    def pack(self) -> bytes:
        """Packs two user properties."""
        return b"\x0e" + b"\x26\x00\x01a\x00\x011" * 2


class Duck:
    """An object that is not paho's properties, with a ``pack``."""

    def __init__(self, packed: Any) -> None:
        self._packed = packed

    def pack(self) -> Any:
        """Returns the value that it was made with."""
        return self._packed


def of_a_connect() -> Properties:
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 60
    return properties


def on_the_wire(properties: Any, qos: int, instrumented: bool) -> list[Any]:
    """The packets that paho would send, or its exception."""

    class Client(mqtt.Client):
        def _packet_queue(self, command: int, packet: Any, *args: Any, **kwargs: Any) -> Any:
            sent.append(bytes(packet))
            return mqtt.MQTT_ERR_SUCCESS

        def _send_publish(self, *args: Any, **kwargs: Any) -> Any:
            vars(self)["_sock"] = True
            try:
                return super()._send_publish(*args, **kwargs)
            finally:
                vars(self)["_sock"] = None

    sent: list[Any] = []
    try:
        publish: Any = mqtt.Client.publish if instrumented else vars(mqtt.Client)["publish"].__wrapped__
        publish(Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5), "topic", "x", qos, False, properties)
    except Exception as error:
        sent.append(repr(error))
    return sent


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize(
    "properties",
    [
        OwnPack(PacketTypes.PUBLISH),
        of_a_connect(),
        Duck(b"\x00"),
        Duck(bytearray(b"\x07\x26\x00\x01a\x00\x011")),
        Duck(b"\x05\x26"),
        Duck(b""),
        Duck(None),
        {},
        "text",
        0,
    ],
    ids=lambda given: type(given).__name__,
)
def test_properties_that_are_not_pahos_own_go_out_as_they_are_with_the_context_where_it_can_be_added(properties, qos):
    (raw,) = on_the_wire(properties, qos, instrumented=False)
    (sent,) = on_the_wire(properties, qos, instrumented=True)
    if isinstance(raw, str) or properties.pack() in (b"", b"\x05\x26"):
        assert sent == raw
        return
    packed = bytes(properties.pack())
    start = len(raw) - len(packed) - len(b"x")
    added = sent[start + len(packed) : -1]
    assert added.startswith(b"\x26\x00\x0btraceparent\x00\x37")
    # Only the two lengths differ: that of the packet and that of the properties.
    assert sent[start] == packed[0] + len(added)
    assert sent[2:start] == raw[2:start]
    assert sent[start + 1 : start + len(packed)] == packed[1:]


@pytest.mark.usefixtures("instrumented")
def test_what_is_behind_properties_that_are_not_pahos_own_can_be_read(spans):
    client = offline_client()
    properties = OwnPack(PacketTypes.PUBLISH)
    properties.ContentType = "text"
    client.publish("topic", qos=1, properties=properties)
    (message,) = client._out_messages.values()
    assert message.properties is not None
    assert vars(copy.copy(message.properties)) == vars(properties)
    assert getattr(message.properties, "ContentType", None) == "text"
    assert not hasattr(message.properties, "ResponseTopic")


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("user_property", [None, 1, "text", ["text"], [("a", 1)], [("a", "b", "c")]])
def test_user_properties_that_are_none(spans, user_property):
    properties = Properties(PacketTypes.PUBLISH)
    vars(properties)["UserProperty"] = user_property
    (raw,), (sent,) = (on_the_wire(properties, 1, instrumented) for instrumented in (False, True))
    assert isinstance(sent, str) == isinstance(raw, str)
    offline_client().disconnect()
    spans.published(1)


def test_an_exception_of_the_hook_costs_no_message(connect: Connect, instrument, spans, topic, inbox, caplog):
    def publish_hook(*_):
        raise RuntimeError("hook")

    instrument(publish_hook=publish_hook)
    connect(topic, on_message=inbox).publish(topic, "x")
    inbox.wait_for()
    spans.published()
    assert "publish_hook" in caplog.text


@pytest.mark.usefixtures("instrumented")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    payload=st.one_of(st.none(), st.binary(), st.text(), st.integers(), st.floats(), st.binary().map(bytearray)),
    own=st.lists(st.tuples(st.text(), st.text()), max_size=5),
    qos=st.sampled_from([0, 1, 2]),
    retain=st.booleans(),
)
def test_any_message_is_published_as_without_instrumentation(spans, payload, own, qos, retain):
    def outcome(publish: Callable[..., Any], client: mqtt.Client) -> object:
        try:
            return publish(client, "topic", payload, qos, retain, publish_properties(UserProperty=list(own))).rc
        except (TypeError, UnicodeEncodeError) as error:
            return type(error)

    client = offline_client()
    started = spans.started
    expected = outcome(mqtt.Client.publish.__wrapped__, offline_client())  # pyright: ignore[reportFunctionMemberAccess] (wraps')
    assert outcome(mqtt.Client.publish, client) == expected
    for message in client._out_messages.values():
        assert vars(message.properties)["UserProperty"][: len(own)] == own
    sizes = [len(message.payload) for message in client._out_messages.values()]
    client.disconnect()
    assert len(spans.ended) == spans.started == started + 1
    assert sizes in ([], [spans.ended[-1].attributes["messaging.message.body.size"]])
