# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""Instrumenting and uninstrumenting: all clients, one client, and libraries that are built on paho's client."""

import asyncio
import json
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from typing import Any

import aiomqtt
import paho.mqtt.client as mqtt
import pytest
from opentelemetry.instrumentation import paho_mqtt
from opentelemetry.instrumentation.paho_mqtt import Options, PahoMqttInstrumentor, process_span
from opentelemetry.trace import SpanKind
from paho.mqtt import publish, subscribe
from paho.mqtt.enums import CallbackAPIVersion

Connect = Callable[..., mqtt.Client]
ORIGINALS = {method.name: vars(method.owner)[method.name] for method in paho_mqtt._METHODS}


def wrapped_methods() -> list[str]:
    return [
        method.name for method in paho_mqtt._METHODS if vars(method.owner)[method.name] is not ORIGINALS[method.name]
    ]


def client(**options: Any) -> mqtt.Client:
    return mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5, **options)


def client_of_its_own_messages(topic: str, qos: int) -> mqtt.Client:
    """A client that subscribes once it is connected, and publishes once it is subscribed."""

    def on_connect(client: mqtt.Client, *_: Any) -> None:
        client.subscribe(topic, 1)

    def on_subscribe(client: mqtt.Client, *_: Any) -> None:
        client.publish(topic, "x", qos)

    one = client()
    one.on_connect = on_connect
    one.on_subscribe = on_subscribe
    return one


def test_what_it_instruments():
    assert PahoMqttInstrumentor().instrumentation_dependencies() == ("paho-mqtt >= 2.0.0, < 3.0.0",)


def test_uninstrument_restores_paho_entirely(instrument):
    for _ in range(2):
        instrument()
        assert wrapped_methods() == list(ORIGINALS)
        PahoMqttInstrumentor().uninstrument()
        assert wrapped_methods() == []


def test_instrumenting_twice_makes_one_span(instrument, spans):
    instrument()
    instrument()
    client().publish("topic")
    spans.published(1)


@pytest.mark.parametrize("options", [{"json_envelope": "sensors/#"}, {"destination_templates": "a"}])
def test_a_wrong_option_is_refused_and_paho_stays_as_it_was(instrument, options):
    with pytest.raises(TypeError):
        instrument(**options)
    assert wrapped_methods() == []


def test_an_option_that_is_unknown_is_one_warning_as_another_version_or_a_distribution_may_give_it(
    instrument, spans, caplog
):
    instrument(unknown=1, others="x")
    PahoMqttInstrumentor().instrument_client(client(), unknown=1)  # pyright: ignore[reportCallIssue] (that is the mistake)
    client().publish("topic")
    spans.published(1)
    warnings = [record.getMessage() for record in caplog.records]
    assert warnings == ["options that are unknown: others, unknown", "options that are unknown: unknown"]


def test_an_option_that_is_none_counts_as_not_given(instrument, tracer_provider, spans):
    instrument(**{**dict.fromkeys(Options.__annotations__), "tracer_provider": tracer_provider})
    one = client()
    one.publish("topic")
    one._handle_on_message(mqtt.MQTTMessage(topic=b"topic"))
    spans.published(1)
    spans.processed(1)


def test_uninstrumenting_all_leaves_those_that_were_instrumented_one_by_one(instrument, tracer_provider, spans):
    instrument()
    one, less, other = client(), client(), client()
    PahoMqttInstrumentor().instrument_client(one, tracer_provider=tracer_provider)
    PahoMqttInstrumentor().uninstrument_client(less)
    one.publish("waits", qos=1)
    PahoMqttInstrumentor().uninstrument()
    assert spans.ended == []
    for each in (one, less, other):
        each.publish(topic="topic")
    spans.published(1)
    instrument()
    less.publish("topic")
    spans.published(2)
    PahoMqttInstrumentor().uninstrument()
    PahoMqttInstrumentor().uninstrument_client(one)
    spans.published(3)
    assert wrapped_methods() == []


def test_one_client(tracer_provider, spans):
    one, other = client(), client()
    PahoMqttInstrumentor().instrument_client(one, tracer_provider=tracer_provider)
    one.publish("one")
    other.publish("other")
    PahoMqttInstrumentor().uninstrument_client(one)
    one.publish("one again")
    assert [span.attributes["messaging.destination.name"] for span in spans.published(1)] == ["one"]
    assert wrapped_methods() == []


def test_one_client_less(instrument, spans):
    instrument()
    one, other = client(), client()
    PahoMqttInstrumentor().uninstrument_client(one)
    one.publish("one")
    other.publish("other")
    assert [span.attributes["messaging.destination.name"] for span in spans.published(1)] == ["other"]
    PahoMqttInstrumentor().uninstrument()
    assert wrapped_methods() == []


def test_a_client_has_options_of_its_own(instrument, tracer_provider, spans):
    instrument()
    one, other = client(), client()
    hook = lambda span, *_: span.set_attribute("own", True)  # noqa: E731 (short)
    PahoMqttInstrumentor().instrument_client(one, tracer_provider=tracer_provider, publish_hook=hook)
    one.publish("one")
    other.publish("other")
    assert ["own" in span.attributes for span in spans.published(2)] == [True, False]


def test_a_client_is_instrumented_once_and_uninstrumented_once(tracer_provider, spans, caplog):
    one = client()
    PahoMqttInstrumentor().instrument_client(one, tracer_provider=tracer_provider)
    PahoMqttInstrumentor().instrument_client(one, tracer_provider=tracer_provider)
    one.publish("topic")
    spans.published(1)
    PahoMqttInstrumentor().uninstrument_client(one)
    PahoMqttInstrumentor().uninstrument_client(one)
    assert [record.message.split()[2] for record in caplog.records] == ["instrument", "uninstrument"]


def test_a_client_made_before_and_callbacks_set_before(broker, connect: Connect, instrument, spans, topic, inbox):
    client = connect(topic, on_message=inbox)
    instrument()
    client.publish(topic, qos=1)
    spans.processed(1)
    client.on_message = lambda *_: None
    client.publish(topic, qos=1)
    spans.processed(2)


@pytest.mark.usefixtures("instrumented")
@pytest.mark.filterwarnings("ignore:Callback API version 1")
@pytest.mark.parametrize("callback_api", list(CallbackAPIVersion))
@pytest.mark.parametrize("protocol", [mqtt.MQTTv311, mqtt.MQTTv5])
def test_both_callback_apis(connect: Connect, spans, topic, inbox, callback_api, protocol):
    client = connect(topic, on_message=inbox, callback_api=callback_api, protocol=protocol)
    client.publish(topic, qos=1)
    spans.published(1)
    spans.processed(1)


@pytest.mark.usefixtures("instrumented")
def test_a_subclass_that_overrides_on_message_and_publish(connect: Connect, spans, topic):
    class Client(mqtt.Client):
        def on_message(self, client, userdata, message):  # type: ignore[override] # paho's old documented way
            handled.set()

        def publish(self, *args, **kwargs):
            return super().publish(*args, **kwargs)

    handled = threading.Event()
    connect(topic, client_class=Client).publish(topic, qos=1)
    assert handled.wait(10)
    spans.published(1)
    spans.processed(1)


@pytest.mark.usefixtures("instrumented")
def test_the_decorator(connect: Connect, spans, topic):
    client = connect(topic)
    handled = threading.Event()

    @client.topic_callback(topic)
    def handle(*_):
        handled.set()

    client.publish(topic, qos=1)
    assert handled.wait(10)
    spans.processed(1)


@pytest.mark.usefixtures("instrumented")
def test_a_hand_driven_loop(broker, spans, topic, inbox):
    one = client_of_its_own_messages(topic, qos=1)
    one.on_message = inbox
    one.connect("127.0.0.1", broker.port)
    while not (inbox.messages and spans.of_kind(SpanKind.PRODUCER)):
        assert one.loop(10) == mqtt.MQTT_ERR_SUCCESS
    spans.processed(1)
    one.disconnect()


@pytest.mark.usefixtures("instrumented")
def test_loop_forever(broker, spans, topic):
    def on_message(client: mqtt.Client, *_: Any) -> None:
        client.disconnect()

    one = client_of_its_own_messages(topic, qos=0)
    one.on_message = on_message
    one.connect("127.0.0.1", broker.port)
    one.loop_forever()
    assert spans.processed(1)[0].parent.span_id == spans.published(1)[0].context.span_id


@pytest.mark.usefixtures("instrumented")
def test_websockets(broker, connect: Connect, spans, topic, inbox):
    client = connect(topic, on_message=inbox, transport="websockets", port=broker.websockets_port)
    client.publish(topic, qos=1)
    (process,) = spans.processed(1)
    assert process.parent.span_id == spans.published(1)[0].context.span_id
    assert process.attributes["server.port"] == broker.websockets_port


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_paho_publish_single_and_multiple(broker, connect: Connect, spans, tracer_provider, topic, inbox, qos):
    connect(topic, on_message=inbox)
    broker_address = {"hostname": "127.0.0.1", "port": broker.port, "protocol": mqtt.MQTTv5}
    with tracer_provider.get_tracer("test").start_as_current_span("batch job") as job:
        publish.single(topic, "1", qos, **broker_address)
        publish.multiple([(topic, "2", qos, False), {"topic": topic, "payload": "3", "qos": qos}], **broker_address)
    inbox.wait_for(3)
    published = {span.context.span_id for span in spans.published(3)}
    assert {span.parent.span_id for span in spans.processed(3)} == published
    assert {span.parent.span_id for span in spans.of_kind(SpanKind.PRODUCER)} == {job.get_span_context().span_id}


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("way", ["simple", "callback"])
def test_paho_subscribe_simple_and_callback(broker, connect: Connect, spans, topic, inbox, way):
    connect().publish(topic, "x", qos=1, retain=True).wait_for_publish(10)
    broker_address: dict[str, Any] = {"hostname": "127.0.0.1", "port": broker.port, "protocol": mqtt.MQTTv5}
    broker_address["clean_session"] = None  # paho requires this for MQTT 5
    if way == "simple":
        assert subscribe.simple(topic, qos=1, **broker_address).payload == b"x"
    else:
        subscribe.callback(lambda client, *_: client.disconnect(), topic, qos=1, **broker_address)
    (process,) = spans.processed(1)
    assert process.links[0].context.span_id == spans.published(1)[0].context.span_id
    connect().publish(topic, b"", qos=1, retain=True).wait_for_publish(10)


def test_aiomqtt(broker, instrument, spans, tracer_provider, topic):
    async def main() -> None:
        async with aiomqtt.Client("127.0.0.1", broker.port, protocol=aiomqtt.ProtocolVersion.V5) as client:
            await client.subscribe(topic, 1)
            await asyncio.gather(*(client.publish(topic, str(number), qos=1) for number in range(10)))
            handlers: list[asyncio.Task[None]] = []
            async for message in client.messages:
                handlers.append(asyncio.create_task(handle(client, message)))
                if len(handlers) == 10:
                    break
            await asyncio.gather(*handlers)

    async def handle(client: aiomqtt.Client, message: aiomqtt.Message) -> None:
        with (
            process_span(message, client=client._client),
            tracer_provider.get_tracer("test").start_as_current_span("work"),
        ):
            await asyncio.sleep(0)

    instrument(process_spans=False)
    asyncio.run(main())
    published = {span.context.span_id: span for span in spans.published(10)}
    processed = {span.context.span_id: span for span in spans.processed(10)}
    assert {span.parent.span_id for span in processed.values()} == published.keys()
    work = spans.of_kind(SpanKind.INTERNAL)
    assert {span.parent.span_id for span in work} == processed.keys()
    assert {span.name for span in processed.values()} == {f"process {topic}"}
    assert {span.attributes["server.port"] for span in processed.values()} == {broker.port}


def test_aiomqtt_untouched(broker, instrument, spans, topic):
    async def main() -> None:
        async with aiomqtt.Client("127.0.0.1", broker.port, protocol=aiomqtt.ProtocolVersion.V5) as client:
            await client.subscribe(topic, 1)
            await client.publish(topic, "x", qos=1)
            async for message in client.messages:
                assert message.payload == b"x"
                break

    instrument()
    asyncio.run(main())
    assert spans.processed(1)[0].parent.span_id == spans.published(1)[0].context.span_id


def test_zero_code(broker, topic, tmp_path):
    (tmp_path / "program.py").write_text(
        textwrap.dedent(f"""
        import paho.mqtt.client as mqtt

        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        client.on_connect = lambda client, *_: client.subscribe("{topic}", 1)
        client.on_subscribe = lambda client, *_: client.publish("{topic}", "x", qos=1)
        client.on_message = lambda client, *_: client.disconnect()
        client.connect("127.0.0.1", {broker.port})
        client.loop_forever()
        """)
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from opentelemetry.instrumentation.auto_instrumentation import run; run()",
            "--traces_exporter=console",
            "--metrics_exporter=none",
            "--logs_exporter=none",
            sys.executable,
            "program.py",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    spans = {span["kind"]: span for span in json_documents(done.stdout)}
    assert spans["SpanKind.PRODUCER"]["name"] == "publish"
    assert spans["SpanKind.CONSUMER"]["parent_id"] == spans["SpanKind.PRODUCER"]["context"]["span_id"]


def json_documents(text: str) -> list[Any]:
    decoder, documents = json.JSONDecoder(), []
    while text := text.strip():
        document, end = decoder.raw_decode(text)
        documents.append(document)
        text = text[end:]
    return documents


def test_without_an_sdk_messages_go_out_as_they_were(connect: Connect, topic, inbox):
    one = connect(topic, on_message=inbox)
    PahoMqttInstrumentor().instrument_client(one)
    one.publish(topic, "x", qos=1)
    (message,) = inbox.wait_for(1)
    assert not hasattr(message.properties, "UserProperty")
    PahoMqttInstrumentor().uninstrument_client(one)
