# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""Trace context in JSON payloads, for MQTT 3.1.1, on the topics of the given filters."""

import json
from collections.abc import Callable

import paho.mqtt.client as mqtt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry import baggage, context
from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor, json_envelope, message_links
from paho.mqtt.enums import CallbackAPIVersion

Connect = Callable[..., mqtt.Client]
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
FIELDS = [("traceparent", TRACEPARENT), ("tracestate", "congo=t61")]

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
    lambda children: st.one_of(st.lists(children), st.dictionaries(st.text(), children)),
    max_leaves=8,
)


@given(
    st.dictionaries(st.text().filter(lambda name: name not in json_envelope.FIELDS), JSON, max_size=4),
    st.sampled_from([None, 2]),
    st.sampled_from([str, str.encode, bytearray]),
)
def test_what_is_written_is_read_and_all_else_stays_as_it_was(document, indent, kind):
    text = json.dumps(document, indent=indent, ensure_ascii=kind is str)
    try:
        payload = bytearray(text, "utf-8") if kind is bytearray else kind(text)
    except UnicodeEncodeError:  # lone surrogates, unescaped
        return
    written = json_envelope.write(payload, FIELDS)
    assert type(written) is type(payload)
    assert list(json.loads(written).items()) == [*json.loads(text).items(), *FIELDS]
    assert json_envelope.read(written) == FIELDS
    end = len(payload) - 1
    assert (written[:end], written[-1:]) == (payload[:end], payload[-1:])


@pytest.mark.parametrize(
    "text", ['{"a": 1.10}', '{"big": 1e400, "exact": 0.1000000000000000055}', '{"a":1,"a":2}', " {} \n"]
)
def test_numbers_spaces_and_equal_names_stay_as_they_were(text):
    start, brace, end = text.rpartition("}")
    written = json_envelope.write(text, FIELDS[:1])
    assert written.startswith(start)
    assert written.endswith(brace + end)
    assert json.loads(written)["traceparent"] == TRACEPARENT


@given(st.one_of(st.none(), st.integers(), st.floats(), st.binary(), st.text(), JSON.map(json.dumps)))
@example(b"")
@example(b"[1]")
@example(b'"text"')
@example(b"{")
@example(b"{'a': 1}")
@example(b'{"a": 1} trailing')
@example(b'{"a":' * 100_000)
@example(b"\xff{}")
@example("{}".encode("utf-16"))
def test_what_is_no_json_object_is_left_alone(payload):
    try:
        is_object = (
            isinstance(json.loads(payload), dict)
            and not isinstance(payload, (int, float))
            and payload.strip()[:1] in ("{", b"{")
        )
    except (TypeError, ValueError, RecursionError):
        is_object = False
    if not is_object:
        assert json_envelope.write(payload, FIELDS) is payload
        assert json_envelope.read(payload) == []


def test_a_context_of_the_caller_is_kept():
    payload = '{"traceparent": "mine"}'
    assert json_envelope.write(payload, FIELDS) is payload


def test_only_fields_of_w3c_trace_context_are_written_and_read():
    assert json_envelope.write("{}", [("baggage", "a=1")]) == "{}"
    assert json_envelope.read('{"baggage": "a=1", "traceparent": 17}') == []


@pytest.mark.parametrize("options", [{}, {"json_envelope": ["other/#"]}])
def test_it_is_off_unless_asked_for(connect: Connect, instrument, spans, topic, inbox, options):
    instrument(**options)
    connect(topic, on_message=inbox, protocol=mqtt.MQTTv311).publish(topic, "{}", qos=1)
    assert inbox.wait_for()[0].payload == b"{}"
    assert spans.processed()[0].attributes["mqtt.missing_context_reason"] == "absent"


@pytest.mark.parametrize("payload", ['{"temperature_c": 20.5}', b'{"temperature_c": 20.5}'])
def test_a_trace_over_mqtt_3(connect: Connect, instrument, spans, topic, inbox, payload):
    instrument(json_envelope=["tests/#"])
    client = connect(topic, on_message=inbox, protocol=mqtt.MQTTv311)
    token = context.attach(baggage.set_baggage("tenant", "blue"))
    client.publish(topic, payload, qos=1)
    context.detach(token)
    (message,) = inbox.wait_for()
    assert list(json.loads(message.payload)) == ["temperature_c", "traceparent"]
    (process,) = spans.processed()
    (published,) = spans.published()
    assert process.parent.span_id == published.context.span_id
    assert process.attributes["messaging.mqtt.context_source"] == "json_payload"
    assert published.attributes["messaging.message.body.size"] == 23
    assert [link.context.span_id for link in message_links([message])] == [published.context.span_id]


def test_one_client_may_ask_for_it(connect: Connect, tracer_provider, spans, topic, inbox):
    client = connect(topic, on_message=inbox, protocol=mqtt.MQTTv311)
    PahoMqttInstrumentor.instrument_client(client, tracer_provider=tracer_provider, json_envelope=["#"])
    client.publish(topic, "{}", qos=1)
    assert spans.processed()[0].parent.span_id == spans.published()[0].context.span_id
    PahoMqttInstrumentor.uninstrument_client(client)


def test_a_subscriber_of_mqtt_5_reads_what_a_publisher_of_mqtt_3_wrote(
    connect: Connect, instrument, spans, topic, inbox
):
    instrument(json_envelope=["tests/#"])
    connect(topic, on_message=inbox)
    connect(protocol=mqtt.MQTTv311).publish(topic, "{}", qos=1)
    assert spans.processed()[0].parent.span_id == spans.published()[0].context.span_id


def test_a_publisher_of_mqtt_5_needs_no_envelope(connect: Connect, instrument, spans, topic, inbox):
    instrument(json_envelope=["tests/#"])
    connect(topic, on_message=inbox).publish(topic, "{}", qos=1)
    assert inbox.wait_for()[0].payload == b"{}"
    assert spans.processed()[0].attributes["messaging.mqtt.context_source"] == "user_properties"


def test_a_context_that_the_caller_put_into_the_payload_is_linked_to(connect: Connect, instrument, spans, topic, inbox):
    instrument(json_envelope=["tests/#"])
    connect(topic, on_message=inbox, protocol=mqtt.MQTTv311).publish(topic, json.dumps({"traceparent": TRACEPARENT}), 1)
    assert json.loads(inbox.wait_for()[0].payload) == {"traceparent": TRACEPARENT}
    assert len(spans.published()[0].links) == 1


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ("{}", "absent"),
        ("not JSON", "absent"),
        ('{"traceparent": "garbage"}', "invalid"),
        (f'{{"traceparent": "{TRACEPARENT}", "traceparent": "garbage"}}', "duplicate"),
        (f'{{"traceParent": "{TRACEPARENT}"}}', "wrong_case"),
    ],
)
def test_an_unusable_context_in_the_payload(instrument, spans, payload, reason):
    instrument(json_envelope=["#"])
    message = mqtt.MQTTMessage(topic=b"topic")
    message.payload = payload.encode()
    mqtt.Client(CallbackAPIVersion.VERSION2)._handle_on_message(message)
    assert spans.processed()[0].attributes["mqtt.missing_context_reason"] == reason
