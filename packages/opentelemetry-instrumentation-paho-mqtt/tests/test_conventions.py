# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""Names of spans and attributes, and topic templates."""

import socket
import tracemalloc
from collections.abc import Callable

import paho.mqtt.client as mqtt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.instrumentation.paho_mqtt.conventions import Conventions, payload_size
from opentelemetry.instrumentation.paho_mqtt.text import encodable
from opentelemetry.instrumentation.paho_mqtt.topics import TopicFilters
from paho.mqtt.enums import CallbackAPIVersion

Connect = Callable[..., mqtt.Client]


def test_names_follow_the_newest_edition(connect: Connect, instrument, spans, topic, inbox):
    instrument(destination_templates=["tests/#"])
    connect(topic, on_message=inbox).publish(topic, qos=1)
    operations = ((spans.published()[0], "publish", "send"), (spans.processed()[0], "process", "process"))
    for span, operation_name, operation_type in operations:
        assert span.name == f"{operation_name} tests/#"
        assert span.attributes["messaging.operation.name"] == operation_name
        assert span.attributes["messaging.operation.type"] == operation_type
        assert span.attributes["messaging.destination.template"] == "tests/#"
        assert span.attributes["messaging.destination.name"] == topic
        assert span.instrumentation_scope.name == "opentelemetry.instrumentation.paho_mqtt"
        assert span.instrumentation_scope.schema_url == "https://opentelemetry.io/schemas/1.44.0"


def test_no_environment_variable_asks_for_another_edition(instrument, spans, topic, monkeypatch):
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "messaging/dup,messaging,http")
    instrument()
    mqtt.Client(CallbackAPIVersion.VERSION2).publish(topic)
    (span,) = spans.published()
    assert (span.name, span.attributes["messaging.operation.type"]) == ("publish", "send")


def test_no_topic_is_in_a_span_name(instrument, spans, topic):
    instrument()
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.publish(topic)
    client._handle_on_message(mqtt.MQTTMessage(topic=topic.encode()))
    assert (spans.published()[0].name, spans.processed()[0].name) == ("publish", "process")


def test_the_whole_topic_is_in_span_names_where_the_user_asks_for_it(instrument, spans, topic):
    instrument(topics_in_span_names=True, destination_templates=["tests/#"])
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.publish(topic)
    client._handle_on_message(mqtt.MQTTMessage(topic=topic.encode()))
    assert (spans.published()[0].name, spans.processed()[0].name) == (f"publish {topic}", f"process {topic}")
    assert spans.published()[0].attributes["messaging.destination.template"] == "tests/#"


def test_a_message_without_a_topic_has_the_operation_as_its_span_name():
    assert Conventions(TopicFilters([]), True).operation("publish", None, "").span_name == "publish"


def test_topics_that_differ_and_are_long_leave_no_memory_behind():
    conventions = Conventions(TopicFilters([]), True)
    tracemalloc.start()
    try:
        for number in range(1000):
            conventions.operation("process", None, f"{number}/{'x' * 30_000}")
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert left < 1_000_000


def test_what_holds_for_several_topics_has_no_template():
    operation = Conventions(TopicFilters(["#"]), False).operation("process", None, "")
    assert "messaging.destination.template" not in operation.span_attributes


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
@pytest.mark.usefixtures("instrumented")
def test_a_unix_socket_has_no_port(spans, topic):
    try:
        client = mqtt.Client(CallbackAPIVersion.VERSION2, transport="unix")
    except ValueError:
        pytest.skip("paho-mqtt 2.1 introduced it")
    client.connect_async("/run/mosquitto.sock")
    client.publish(topic)
    (span,) = spans.published()
    assert span.attributes["server.address"] == "/run/mosquitto.sock"
    assert "server.port" not in span.attributes


@pytest.mark.parametrize(
    ("filters", "topic", "match"),
    [
        ([], "a", None),
        (["a/+"], "b/c", None),
        (["a/+", "a/#", "#"], "a/b", "a/+"),
        (["#", "a/+"], "a/b", "#"),
        (["a/#"], "a", "a/#"),
        (["#"], "$SYS/broker", None),
        (["a/b", "a/b"], "a/b", "a/b"),
    ],
)
def test_the_first_filter_that_matches(filters, topic, match):
    assert TopicFilters(filters).match(topic) == match


@pytest.mark.parametrize(
    ("payload", "size"),
    [(None, 0), (b"ab", 2), (bytearray(b"ab"), 2), ("ä", 2), ("ab", 2), (17, 2), (1.5, 3), (object(), 0)],
)
def test_the_size_of_a_payload(payload, size):
    assert payload_size(payload) == size


@given(st.text(st.characters()))
def test_any_text_is_made_encodable(text):
    assert len(encodable(text).encode("utf-8").decode()) == len(text)
