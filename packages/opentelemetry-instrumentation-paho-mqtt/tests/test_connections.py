# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""The spans' attributes of the connection, the trace context of the will, connection metrics, acknowledgements."""

import socket
import threading
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.instrumentation.paho_mqtt import user_properties_to_context
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.trace import SpanKind
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

Connect = Callable[..., mqtt.Client]
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
PEER = ("network.peer.address", "network.peer.port")


def peer(span: Any) -> tuple[Any, ...]:
    return tuple(span.attributes.get(name) for name in PEER)


# ---------------------------------------------------------------------- attributes


@pytest.mark.usefixtures("instrumented")
def test_spans_name_the_peer_of_the_connection(broker, connect: Connect, spans, topic, inbox):
    connect(topic, on_message=inbox).publish(topic, qos=1)
    assert peer(spans.published()[0]) == peer(spans.processed()[0]) == ("127.0.0.1", broker.port)


@pytest.mark.usefixtures("instrumented")
def test_so_they_do_over_websockets(broker, connect: Connect, spans, topic):
    connect(transport="websockets", port=broker.websockets_port).publish(topic, qos=1)
    assert peer(spans.published()[0]) == ("127.0.0.1", broker.websockets_port)


@pytest.mark.usefixtures("instrumented")
def test_without_a_connection_there_is_no_peer(spans, topic):
    mqtt.Client(CallbackAPIVersion.VERSION2).publish(topic)
    assert peer(spans.published()[0]) == (None, None)


@pytest.mark.usefixtures("instrumented")
def test_the_server_of_a_client_that_goes_elsewhere(broker, spans, topic):
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.connect_async("one.example", 1)
    client.publish(topic)
    client.connect_async("two.example", 2)
    client.publish(topic)
    client.connect("127.0.0.1", broker.port)
    client.publish(topic)
    client.disconnect()
    servers = [(s.attributes["server.address"], s.attributes["server.port"], *peer(s)) for s in spans.published(3)]
    assert servers == [
        ("one.example", 1, None, None),
        ("two.example", 2, None, None),
        ("127.0.0.1", broker.port, "127.0.0.1", broker.port),
    ]


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
@pytest.mark.usefixtures("instrumented")
def test_the_peer_of_a_unix_socket(spans, topic, tmp_path):
    path = str(tmp_path / "mosquitto.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        try:
            client = mqtt.Client(CallbackAPIVersion.VERSION2, transport="unix")
        except ValueError:
            pytest.skip("paho-mqtt 2.1 introduced it")
        client.connect(path)
        client.publish(topic)
        client.disconnect()
    (span,) = spans.published()
    assert (span.attributes["server.address"], *peer(span)) == (path, path, None)


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize(
    ("correlation_data", "conversation_id"),
    [
        (b"request-17", "request-17"),
        ("ä".encode(), "ä"),
        (b"\xff\x00", "ff00"),
        (b"line\n", "6c696e650a"),
        (b"", None),
        (None, None),
    ],
)
def test_correlation_data_are_the_id_of_the_conversation(
    connect: Connect, spans, topic, inbox, correlation_data, conversation_id
):
    properties = Properties(PacketTypes.PUBLISH)
    if correlation_data is not None:
        properties.CorrelationData = correlation_data
    connect(topic, on_message=inbox).publish(topic, qos=1, properties=properties)
    for span in (spans.published()[0], spans.processed()[0]):
        assert span.attributes.get("messaging.message.conversation_id") == conversation_id


# ---------------------------------------------------------------------- wills


def will_properties(**values: Any) -> Properties:
    properties = Properties(PacketTypes.WILLMESSAGE)
    for name, value in values.items():
        setattr(properties, name, value)
    return properties


def dying_client(protocol: MQTTProtocolVersion = mqtt.MQTTv5) -> mqtt.Client:
    return mqtt.Client(CallbackAPIVersion.VERSION2, protocol=protocol, reconnect_on_failure=False)


def run_and_die(client: mqtt.Client) -> None:
    """Connects, and closes the connection without a DISCONNECT, so that the broker publishes the will."""
    connected = threading.Event()
    client.on_connect = lambda *_: connected.set()
    client.loop_start()
    assert connected.wait(20)
    found: Any = client.socket()
    found.shutdown(socket.SHUT_RDWR)
    client.loop_stop()


@pytest.mark.parametrize("asynchronously", [False, True])
def test_a_will_carries_the_context_of_the_connect(
    broker, connect: Connect, instrument, tracer_provider, spans, topic, inbox, asynchronously
):
    instrument()
    connect(topic, on_message=inbox)
    client = dying_client()
    given = will_properties(MessageExpiryInterval=60, UserProperty=("mine", "kept"))
    client.will_set(topic, "gone", qos=1, properties=given)
    token = context.attach(baggage.set_baggage("tenant", "blue"))
    with tracer_provider.get_tracer("test").start_as_current_span("connect") as span:
        (client.connect_async if asynchronously else client.connect)("127.0.0.1", broker.port)
    context.detach(token)
    run_and_die(client)
    (message,) = inbox.wait_for()
    carried = user_properties_to_context(message.properties.UserProperty)
    assert trace.get_current_span(carried).get_span_context().span_id == span.get_span_context().span_id
    assert baggage.get_baggage("tenant", carried) == "blue"
    assert ("mine", "kept") in message.properties.UserProperty
    assert vars(given)["UserProperty"] == [("mine", "kept")], "the caller's own stay as they are"
    assert vars(client)["_will_properties"] is given
    (process,) = spans.processed()
    assert process.parent.span_id == span.get_span_context().span_id


@pytest.mark.usefixtures("instrumented")
def test_a_will_with_a_context_of_its_own_keeps_it(broker, connect: Connect, tracer_provider, topic, inbox):
    connect(topic, on_message=inbox)
    client = dying_client()
    client.will_set(topic, "gone", properties=will_properties(UserProperty=("traceparent", TRACEPARENT)))
    with tracer_provider.get_tracer("test").start_as_current_span("connect"):
        client.connect("127.0.0.1", broker.port)
    run_and_die(client)
    assert inbox.wait_for()[0].properties.UserProperty == [("traceparent", TRACEPARENT)]
    client.disconnect()
    client.loop_stop()


class OtherProperties:
    """Properties that are not paho's class, but have its ``pack``."""

    def pack(self) -> bytes:
        """One user property, ``a``: ``b``."""
        return b"\x07\x26\x00\x01a\x00\x01b"


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("properties", [None, OtherProperties()])
def test_a_will_without_properties_or_with_others(
    broker, connect: Connect, tracer_provider, topic, inbox, monkeypatch, properties
):
    connect(topic, on_message=inbox)
    client = dying_client()
    client.will_set(topic, "gone")
    monkeypatch.setitem(vars(client), "_will_properties", properties)
    with tracer_provider.get_tracer("test").start_as_current_span("connect"):
        client.connect("127.0.0.1", broker.port)
    run_and_die(client)
    names = [name for name, _ in inbox.wait_for()[0].properties.UserProperty]
    assert names == ([] if properties is None else ["a"]) + ["traceparent"]


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("protocol", [mqtt.MQTTv311, mqtt.MQTTv5])
def test_a_will_without_a_context_goes_out_as_it_is(broker, connect: Connect, topic, inbox, protocol):
    connect(topic, on_message=inbox)
    client = dying_client(protocol)
    client.will_set(topic, "gone")
    client.connect("127.0.0.1", broker.port)
    run_and_die(client)
    assert not hasattr(inbox.wait_for()[0].properties, "UserProperty")


@pytest.mark.usefixtures("instrumented")
def test_a_will_of_mqtt_3_is_no_obstacle(broker, connect: Connect, tracer_provider, topic, inbox):
    connect(topic, on_message=inbox)
    client = dying_client(mqtt.MQTTv311)
    client.will_set(topic, "gone")
    with tracer_provider.get_tracer("test").start_as_current_span("connect"):
        client.connect("127.0.0.1", broker.port)
    run_and_die(client)
    assert inbox.wait_for()[0].payload == b"gone"


# ---------------------------------------------------------------------- metrics of the connection


def read(reader: InMemoryMetricReader, port: int) -> dict[str, Any]:
    """The values of the metrics of connections to a port, and their attributes."""
    data = reader.get_metrics_data()
    metrics: list[Any] = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics] if data else []
    return {
        metric.name: (point.value, dict(point.attributes))
        for metric in metrics
        if metric.name.startswith("messaging.mqtt.")
        for point in metric.data.data_points
        if point.attributes.get("server.port") == port
    }


def test_messages_in_flight_and_reconnects_where_the_user_asks_for_them(instrument, topic):
    reader = InMemoryMetricReader()
    instrument(meter_provider=MeterProvider(metric_readers=[reader]), connection_metrics=True)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        port = deaf.getsockname()[1]
        client.connect("127.0.0.1", port)
        client.publish(topic, qos=1)
        client.publish(topic, qos=2)
        server = {"messaging.system": "mqtt", "server.address": "127.0.0.1", "server.port": port}
        assert read(reader, port) == {"messaging.mqtt.client.inflight.messages": (2, server)}
        client.reconnect()
        client.reconnect()
        assert read(reader, port) == {
            "messaging.mqtt.client.inflight.messages": (0, server),
            "messaging.mqtt.client.reconnects": (2, server),
        }
        client.disconnect()


def test_they_are_off_by_default(broker, connect: Connect, instrument, topic):
    reader = InMemoryMetricReader()
    instrument(meter_provider=MeterProvider(metric_readers=[reader]))
    client = connect()
    client.publish(topic, qos=1).wait_for_publish(20)
    client.reconnect()
    assert read(reader, broker.port) == {}


# ---------------------------------------------------------------------- acknowledgements


def acknowledging(client: mqtt.Client, userdata: None, message: mqtt.MQTTMessage) -> None:
    client.ack(message.mid, message.qos)


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("qos", [1, 2])
def test_an_acknowledgement_is_a_settle_span(broker, connect: Connect, spans, topic, qos):
    client = connect(topic, on_message=acknowledging, manual_ack=True, client_id="worker")
    client.publish(topic, qos=qos)
    (settle,) = spans.wait_for(1, SpanKind.CLIENT)
    (process,) = spans.processed()
    assert settle.name == f"ack {topic}"
    assert settle.parent.span_id == process.context.span_id
    assert [link.context.span_id for link in settle.links] == [spans.published()[0].context.span_id]
    assert dict(settle.attributes) == {
        "messaging.system": "mqtt",
        "messaging.operation.name": "ack",
        "messaging.operation.type": "settle",
        "messaging.destination.name": topic,
        "messaging.destination.template": topic,
        "messaging.client.id": "worker",
        "server.address": "127.0.0.1",
        "server.port": broker.port,
        "network.peer.address": "127.0.0.1",
        "network.peer.port": broker.port,
        "messaging.mqtt.qos": qos,
    }


@pytest.mark.usefixtures("instrumented")
def test_an_acknowledgement_outside_of_any_span_is_below_the_publish_span(connect: Connect, spans, topic, inbox):
    client = connect(topic, on_message=inbox, manual_ack=True)
    client.publish(topic, qos=1)
    (message,) = inbox.wait_for()
    assert client.ack(mid=message.mid, qos=message.qos) == mqtt.MQTT_ERR_SUCCESS
    (settle,) = spans.wait_for(1, SpanKind.CLIENT)
    assert settle.parent.span_id == spans.published()[0].context.span_id


@pytest.mark.usefixtures("instrumented")
def test_an_acknowledgement_that_is_not_sent_is_an_error(spans):
    client = mqtt.Client(CallbackAPIVersion.VERSION2, manual_ack=True)
    assert client.ack(7, 1) == mqtt.MQTT_ERR_NO_CONN
    (settle,) = spans.wait_for(1, SpanKind.CLIENT)
    assert (settle.name, settle.attributes["error.type"]) == ("ack", "MQTT_ERR_NO_CONN")
    with pytest.raises(TypeError):
        client.ack()  # pyright: ignore[reportCallIssue] (a wrong call, on purpose)


def test_an_acknowledgement_that_raises(instrument, spans, monkeypatch):
    def fail(*_: object) -> None:
        raise LookupError("no")

    monkeypatch.setattr(mqtt.Client, "_send_puback", fail)
    instrument()
    with pytest.raises(LookupError):
        mqtt.Client(CallbackAPIVersion.VERSION2, manual_ack=True).ack(7, 1)
    (settle,) = spans.wait_for(1, SpanKind.CLIENT)
    assert settle.attributes["error.type"] == "LookupError"


def test_no_settle_spans_where_paho_acknowledges_or_the_user_wants_none(connect: Connect, instrument, spans, topic):
    instrument()
    client = connect(topic, on_message=acknowledging)
    client.publish(topic, qos=1)
    spans.processed(1)
    client.disconnect()
    client.loop_stop()
    assert spans.of_kind(SpanKind.CLIENT) == []


def test_settle_spans_can_be_switched_off(connect: Connect, instrument, spans, topic):
    instrument(settle_spans=False)
    client = connect(topic, on_message=acknowledging, manual_ack=True)
    client.publish(topic, qos=1)
    spans.processed(1)
    client.disconnect()
    client.loop_stop()
    assert spans.of_kind(SpanKind.CLIENT) == []


def test_the_duration_of_an_acknowledgement_is_one_of_a_clients_operations(instrument):
    reader = InMemoryMetricReader()
    instrument(meter_provider=MeterProvider(metric_readers=[reader]))
    mqtt.Client(CallbackAPIVersion.VERSION2, manual_ack=True).ack(7, 1)
    data = reader.get_metrics_data()
    assert data is not None
    (metric,) = data.resource_metrics[0].scope_metrics[0].metrics
    (point,) = metric.data.data_points
    assert metric.name == "messaging.client.operation.duration"
    assert dict(point.attributes or {}) == {
        "messaging.system": "mqtt",
        "messaging.operation.name": "ack",
        "messaging.operation.type": "settle",
        "error.type": "MQTT_ERR_NO_CONN",
    }
