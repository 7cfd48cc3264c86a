# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""Every publish span ends exactly once, whatever happens to the connection, the client or the instrumentation."""

import copy
import gc
import pickle
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from queue import SimpleQueue

import paho.mqtt.client as mqtt
import pytest
from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor
from opentelemetry.instrumentation.paho_mqtt.publishing import _PublishProperties
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from paho.mqtt import properties as mqtt_properties
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties

Connect = Callable[..., mqtt.Client]


def offline_client() -> mqtt.Client:
    return mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)


def cut_connection(client: mqtt.Client) -> None:
    """Breaks paho's connection; paho then opens another one."""
    connection = client.socket()
    assert isinstance(connection, socket.socket)
    connection.shutdown(socket.SHUT_RDWR)


def any_pass() -> None:
    """Calls any client, because spans whose end could only be noted elsewhere are ended in such calls."""
    offline_client().disconnect()


def end_without_error(spans, count: int) -> bool:
    return {span.status.status_code for span in spans.published(count)} == {StatusCode.UNSET}


@pytest.mark.usefixtures("instrumented")
def test_ten_thousand_publishes_under_forced_reconnects(connect: Connect, spans, topic):
    client = connect()
    connected = threading.Semaphore(0)
    client.on_connect = lambda *_: connected.release()
    for number in range(10_000):
        client.publish(topic, str(number), qos=1 + number % 2)
        if number % 500 == 499:
            cut_connection(client)
            assert connected.acquire(timeout=20)
    assert len({span.context.span_id for span in spans.published(10_000)}) == spans.started == 10_000
    assert end_without_error(spans, 10_000)
    assert client._out_messages == {}
    del client
    gc.collect()
    assert not [thing for thing in gc.get_objects() if isinstance(thing, _PublishProperties)]


@pytest.mark.usefixtures("instrumented")
def test_message_ids_wrap_around(connect: Connect, spans, topic):
    client = connect()
    client._last_mid = 65_530
    mids = [client.publish(topic, qos=1).mid for _ in range(10)]
    assert mids == [65_531, 65_532, 65_533, 65_534, 65_535, 1, 2, 3, 4, 5]
    assert end_without_error(spans, 10)


@pytest.mark.usefixtures("instrumented")
def test_a_message_id_that_is_still_in_use_is_a_refusal_and_leaves_the_first_span_alone(spans, topic):
    client = offline_client()
    client.publish(topic, qos=1)
    client._last_mid = 0
    assert client.publish(topic, qos=1).rc == mqtt.MQTT_ERR_QUEUE_SIZE
    assert spans.published(1)[0].attributes["error.type"] == "MQTT_ERR_QUEUE_SIZE"
    assert spans.started == 2


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("clean_start", [True, False])
def test_disconnecting_ends_the_spans_of_what_is_not_acknowledged(connect: Connect, spans, topic, clean_start):
    class Client(mqtt.Client):
        def _handle_pubackcomp(self, cmd):
            return mqtt.MQTT_ERR_SUCCESS  # the acknowledgement is lost

    client = connect(client_class=Client, client_id="device", connect_options={"clean_start": clean_start})
    client.publish(topic, qos=1)
    client.publish(topic, qos=2)
    client.disconnect()
    for span in spans.published(2):
        assert span.attributes["error.type"] == "disconnect"
        assert span.status.status_code is StatusCode.ERROR


@pytest.mark.usefixtures("instrumented")
def test_disconnecting_while_offline_ends_the_spans(spans, topic):
    client = offline_client()
    client.publish(topic, qos=1)
    client.disconnect()
    assert spans.published(1)[0].attributes["error.type"] == "disconnect"


@pytest.mark.usefixtures("instrumented")
def test_a_lost_connection_that_paho_will_not_open_again_ends_the_spans(connect: Connect, spans, topic):
    class Client(mqtt.Client):
        def _handle_pubackcomp(self, cmd):
            return mqtt.MQTT_ERR_CONN_LOST

    connect(client_class=Client, reconnect_on_failure=False).publish(topic, qos=1)
    assert spans.published(1)[0].attributes["error.type"] == "disconnect"


@pytest.mark.usefixtures("instrumented")
def test_a_message_delivered_after_its_span_ended_does_not_end_it_again(connect: Connect, broker, spans, topic, inbox):
    connect(topic, on_message=inbox)
    client = offline_client()
    client.publish(topic, qos=1)
    client.disconnect()
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    inbox.wait_for(1)
    client.disconnect()
    client.loop_stop()
    spans.published(1)


@pytest.mark.usefixtures("instrumented")
def test_a_client_that_is_destroyed_ends_its_spans(spans, topic):
    client = offline_client()
    for qos in (1, 2):
        client.publish(topic, qos=qos)
    del client
    gc.collect()
    assert spans.ended == []
    any_pass()
    assert [span.attributes["error.type"] for span in spans.published(2)] == ["discarded"] * 2


@pytest.mark.usefixtures("instrumented")
def test_a_client_in_a_reference_cycle_ends_its_spans(spans, topic):
    client = offline_client()
    client.user_data_set(client)
    client.publish(topic, qos=1)
    del client
    gc.collect()
    any_pass()
    spans.published(1)


@pytest.mark.usefixtures("instrumented")
@pytest.mark.skipif(not hasattr(mqtt.Client, "drop_out_messages"), reason="paho-mqtt 2.2 introduced it")
def test_dropped_messages_end_their_spans(spans, topic):
    client = offline_client()
    client.publish(topic, qos=1)
    client.drop_out_messages()
    any_pass()
    assert spans.published(1)[0].attributes["error.type"] == "discarded"


@pytest.mark.usefixtures("instrumented")
def test_reinitialising_ends_the_spans(spans, topic):
    client = offline_client()
    client.publish(topic, qos=1)
    client.__init__(CallbackAPIVersion.VERSION2)
    any_pass()
    spans.published(1)


def test_uninstrumenting_ends_the_spans(instrument, spans, topic):
    instrument()
    client = offline_client()
    client.publish(topic, qos=1)
    PahoMqttInstrumentor().uninstrument()
    spans.published(1)


def test_uninstrumenting_a_client_ends_its_spans(tracer_provider, spans, topic):
    client = offline_client()
    PahoMqttInstrumentor().instrument_client(client, tracer_provider=tracer_provider)
    client.publish(topic, qos=1)
    PahoMqttInstrumentor().uninstrument_client(client)
    spans.published(1)


def test_the_end_of_the_program_ends_the_spans():
    program = textwrap.dedent("""
        import paho.mqtt.client as mqtt
        from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter()))
        PahoMqttInstrumentor().instrument(tracer_provider=provider)
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        client.publish("topic", qos=1)
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert '"name": "publish"' in done.stdout


@pytest.mark.usefixtures("instrumented")
def test_a_reason_code_that_does_not_exist_is_no_acknowledgement(spans, topic):
    client = offline_client()
    mid = client.publish(topic, qos=1).mid
    packet = {"command": 0x40, "packet": bytearray(mid.to_bytes(2, "big") + b"\xfe"), "remaining_length": 3}
    vars(client)["_in_packet"].update(packet)
    # paho-mqtt 2.2 treats it as a malformed packet, and reconnects.
    with pytest.raises((KeyError, mqtt_properties.MQTTException)):  # pyright: ignore[reportPrivateImportUsage] (the place that all versions have)
        client._handle_pubackcomp("PUBACK")
    assert mid in client._out_messages
    assert spans.ended == []


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])  # noqa: S301 (our own)
def test_a_copy_of_the_properties_has_no_part_in_the_span(spans, topic, duplicate):
    client = offline_client()
    client.publish(topic, qos=1)
    (message,) = client._out_messages.values()
    copied = duplicate(message.properties)
    assert type(copied) is Properties
    assert vars(copied)["UserProperty"] == vars(message.properties)["UserProperty"]
    assert vars(copied)["UserProperty"] is not vars(message.properties)["UserProperty"]
    del copied
    assert spans.ended == []


@pytest.mark.usefixtures("instrumented")
def test_sixteen_threads_publish_while_the_network_thread_acknowledges(connect: Connect, spans, topic):
    def publish(number: int) -> None:
        for _ in range(250):
            client.publish(f"{topic}/{number}", "x", qos=1 + number % 2)

    client = connect()
    threads = [threading.Thread(target=publish, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert end_without_error(spans, 4000)
    assert spans.started == 4000
    assert len({span.context.span_id for span in spans.ended}) == 4000


def test_no_lock_of_ours_is_held_while_user_code_runs(connect: Connect, instrument, tracer_provider, spans, topic):
    class Publishing(SpanProcessor):
        """A processor that publishes from another thread, and waits for that."""

        def on_end(self, span):
            if span.kind is SpanKind.PRODUCER and (span.attributes or {}).get("messaging.destination.name") == topic:
                thread = threading.Thread(target=PahoMqttInstrumentor.instrument_client, args=(offline_client(),))
                thread.start()
                thread.join(10)
                finished.put(not thread.is_alive())

    finished: SimpleQueue[bool] = SimpleQueue()
    tracer_provider.add_span_processor(Publishing())
    instrument()
    connect().publish(topic, qos=1)
    spans.published(1)
    offline = offline_client()
    offline.publish(topic, qos=1)
    offline.disconnect()
    spans.published(2)
    PahoMqttInstrumentor().uninstrument()
    assert [finished.get(timeout=20) for _ in range(2)] == [True, True]
