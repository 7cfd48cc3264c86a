# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""The instrumentation blocks no program: garbage collections, forks, blocked callbacks, slow processors."""

import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor, endings, process_span, publishing
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics._internal import aggregation
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode
from paho.mqtt.enums import CallbackAPIVersion

Connect = Callable[..., mqtt.Client]
TIMEOUT_SECONDS = 20.0
# A program that takes this long hangs.
PROGRAM_SECONDS = 30.0


def offline_client() -> mqtt.Client:
    return mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)


def discarded_client() -> None:
    """Makes a client that only the garbage collector can free, with a waiting message."""
    client = offline_client()
    client.user_data_set(client)
    client.publish("discarded", qos=1)


def in_time(function: Callable[[], object]) -> bool:
    """Whether a function returns in time; it runs in its own thread."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    thread.join(TIMEOUT_SECONDS)
    return not thread.is_alive()


@pytest.fixture
def no_collection_by_itself():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection_by_itself")
def test_a_collection_inside_the_locks_of_the_metrics(instrument, spans, monkeypatch):
    def collecting(collect: Callable[..., Any]) -> Callable[..., Any]:
        def collect_garbage_first(*args: Any) -> Any:
            gc.collect()
            return collect(*args)

        return collect_garbage_first

    reader = InMemoryMetricReader()
    instrument(meter_provider=MeterProvider(metric_readers=[reader]))
    offline_client().publish("topic")
    # Two, because the end of one could record the end of the other.
    discarded_client()
    discarded_client()
    for kind in (aggregation._SumAggregation, aggregation._ExplicitBucketHistogramAggregation):
        monkeypatch.setattr(kind, "collect", collecting(kind.collect))
    assert in_time(reader.get_metrics_data)
    assert spans.started - len(spans.ended) == 2
    offline_client().publish("topic")
    spans.published(4)


@pytest.mark.usefixtures("no_collection_by_itself", "instrumented")
def test_a_discarded_client_s_span_ends_in_the_loop_of_any_other(connect: Connect, spans):
    connect()
    discarded_client()
    gc.collect()
    assert spans.published(1)[0].attributes["error.type"] == "discarded"


@pytest.mark.usefixtures("no_collection_by_itself")
def test_a_collection_inside_the_lock_of_an_exporter(instrument):
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrument(tracer_provider=provider)
    discarded_client()

    def collect_under_lock() -> None:
        with exporter._lock:
            gc.collect()

    assert in_time(collect_under_lock)
    assert exporter.get_finished_spans() == ()
    offline_client().publish("topic")
    assert len(exporter.get_finished_spans()) == 2


PROGRAM = textwrap.dedent("""
    import os
    import queue
    import sys
    import threading

    import paho.mqtt.client as mqtt
    from opentelemetry import trace
    from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

    def set_up_sdk():
        provider = TracerProvider()
        def one_line(span):
            operation, topic, error = (
                span.attributes.get(name)
                for name in ("messaging.operation.name", "messaging.destination.name", "error.type")
            )
            return f"{operation} {topic} {error} {span.context.span_id}\\n"

        provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter(formatter=one_line)))
        trace.set_tracer_provider(provider)

    def client(**options):
        return mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5, **options)
""")


def run(program: str, *arguments: str) -> list[str]:
    """Runs a program; returns the spans that it exported, without their ids."""
    done = subprocess.run(
        # Python 3.12 and later warn of a fork while other threads run.
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PROGRAM + textwrap.dedent(program), *arguments],
        capture_output=True,
        text=True,
        timeout=PROGRAM_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(set(lines)) == len(lines), lines
    return sorted(line.rpartition(" ")[0] for line in lines)


def test_the_program_ends_while_a_callback_blocks_under_paho_s_lock(broker):
    spans = run(
        """
        set_up_sdk()
        PahoMqttInstrumentor().instrument()
        full = queue.Queue(1)
        full.put("full")
        blocked = threading.Event()

        def on_publish(*_):
            blocked.set()
            full.put("one more")

        one = client()
        one.on_publish = on_publish
        one.on_connect = lambda *_: one.publish("topic", qos=1)
        one.connect("127.0.0.1", int(sys.argv[1]))
        one.loop_start()
        assert blocked.wait(20)
        other = client()
        other.publish("waits", qos=1)
        # Nor does taking the instrumentation off wait.
        PahoMqttInstrumentor.uninstrument_client(one)
        """,
        str(broker.port),
    )
    assert spans == ["publish topic None", "publish waits disconnect"]


def test_a_message_that_waits_at_the_end_though_the_sdk_was_set_up_after_the_instrumentation():
    spans = run(
        """
        PahoMqttInstrumentor().instrument()
        one = client()
        one.publish("before", qos=1)
        set_up_sdk()
        one.publish("waits", qos=1)
        """
    )
    assert spans == ["publish waits disconnect"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
@pytest.mark.parametrize("end", ["sys.exit()", "one.disconnect()", "PahoMqttInstrumentor().uninstrument()", "del one"])
def test_a_child_inherits_no_open_span(end):
    spans = run(
        f"""
        set_up_sdk()
        PahoMqttInstrumentor().instrument()
        one = client()
        one.publish("waits", qos=1)
        process = os.fork()
        if process == 0:
            {end}
            sys.exit()
        os.waitpid(process, 0)
        """
    )
    assert spans == ["publish waits disconnect"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_a_child_of_a_handler_does_not_end_the_handler_s_span():
    spans = run(
        """
        def on_message(*_):
            if os.fork() == 0:
                return
            os.wait()

        set_up_sdk()
        PahoMqttInstrumentor().instrument()
        one = client()
        one.on_message = on_message
        one._handle_on_message(mqtt.MQTTMessage(topic=b"topic"))
        """
    )
    assert spans == ["process topic None"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_a_child_publishes_and_instruments_although_a_thread_of_its_parent_held_the_lock():
    spans = run(
        """
        from opentelemetry.instrumentation import paho_mqtt

        PahoMqttInstrumentor().instrument()
        paho_mqtt._lock.acquire()
        process = os.fork()
        if process == 0:
            set_up_sdk()
            PahoMqttInstrumentor().uninstrument()
            PahoMqttInstrumentor().instrument()
            client().publish("child")
            sys.exit()
        assert os.waitpid(process, 0)[1] == 0
        """
    )
    assert spans == ["publish child MQTT_ERR_NO_CONN"]


class SlowProcessor(SpanProcessor):
    """Blocks when the publish span of a topic ends."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.entered = threading.Event()
        self.go_on = threading.Event()

    def on_end(self, span: Any) -> None:
        """Blocks until it is released."""
        if span.kind is SpanKind.PRODUCER and span.attributes["messaging.destination.name"] == self.topic:
            self.entered.set()
            assert self.go_on.wait(TIMEOUT_SECONDS)


def relay(of: int, target: mqtt.Client, topic: str, qos: int) -> Callable[..., None]:
    """An ``on_publish`` that publishes when a certain message was acknowledged."""

    def on_publish(client: mqtt.Client, userdata: Any, mid: int, *_: Any) -> None:
        if mid == of:
            target.publish(topic, qos=qos)

    return on_publish


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_slow_processor_blocks_no_publish_of_another_thread(
    connect: Connect, instrument, tracer_provider, spans, topic, qos
):
    slow = SlowProcessor(f"{topic}/slow")
    tracer_provider.add_span_processor(slow)
    instrument()
    client = connect()
    # QoS 0 from a callback that paho calls while it holds its lock.
    first = client._last_mid + 1
    client.on_publish = relay(first, client, f"{topic}/slow", qos=0)
    client.publish(topic if qos == 0 else f"{topic}/slow", qos=max(qos, 1))
    assert slow.entered.wait(TIMEOUT_SECONDS)
    assert in_time(lambda: client.publish(topic, qos=1))
    assert client._out_message_mutex.acquire(timeout=TIMEOUT_SECONDS)
    client._out_message_mutex.release()
    slow.go_on.set()


@pytest.mark.usefixtures("instrumented")
def test_two_clients_that_publish_from_one_another_s_callbacks(connect: Connect, spans, topic):
    one, other = connect(), connect()
    one.on_publish = relay(1, other, f"{topic}/by one", qos=1)
    other.on_publish = relay(1, one, f"{topic}/by other", qos=1)
    one.publish(topic, qos=1)
    spans.published(3)


def test_taking_it_off_while_threads_make_clients_and_publish(tracer_provider, spans):
    def publish() -> None:
        try:
            while not stop.is_set():
                offline_client().publish("topic", qos=1)
                offline_client().publish("topic", qos=0)
        except Exception as error:
            errors.put(error)

    stop, errors = threading.Event(), SimpleQueue[Exception]()
    threads = [threading.Thread(target=publish) for _ in range(4)]
    instrumentor = PahoMqttInstrumentor()
    instrumentor.instrument(tracer_provider=tracer_provider)
    for thread in threads:
        thread.start()
    for _ in range(20):
        instrumentor.uninstrument()
        instrumentor.instrument(tracer_provider=tracer_provider)
        publishing._end_all()
    stop.set()
    for thread in threads:
        thread.join(TIMEOUT_SECONDS)
    instrumentor.uninstrument()
    assert errors.empty()
    gc.collect()
    endings.end_noted()
    assert len({span.context.span_id for span in spans.ended}) == spans.started == len(spans.ended)


@pytest.mark.parametrize("one_client", [True, False])
def test_what_is_acknowledged_after_the_instrumentation_was_taken_off_is_no_error(
    broker, instrument, spans, topic, one_client
):
    reader = InMemoryMetricReader()
    instrument(meter_provider=MeterProvider(metric_readers=[reader]))
    client = offline_client()
    info = client.publish(topic, qos=1)
    if one_client:
        PahoMqttInstrumentor().uninstrument_client(client)
    else:
        PahoMqttInstrumentor().uninstrument()
    (span,) = spans.published(1)
    assert (span.status.status_code, span.attributes.get("error.type")) == (StatusCode.UNSET, None)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    info.rc = mqtt.MQTT_ERR_SUCCESS
    info.wait_for_publish(TIMEOUT_SECONDS)
    assert info.is_published()
    client.disconnect()
    client.loop_stop()
    spans.published(1)
    assert reader.get_metrics_data() is None


def test_a_publish_during_which_the_instrumentation_is_taken_off(instrument, spans, topic):
    class Client(mqtt.Client):
        def _mid_generate(self) -> int:
            PahoMqttInstrumentor().uninstrument()
            return super()._mid_generate()

    instrument()
    client = Client(CallbackAPIVersion.VERSION2)
    client.publish(topic, qos=1)
    assert spans.published(1)[0].status.status_code is StatusCode.UNSET


def test_a_handler_that_opens_its_span_itself_unsampled(instrument):
    def on_message(client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        with process_span(message, client=client):
            pass

    hooked: list[Any] = []
    reader = InMemoryMetricReader()
    instrument(
        tracer_provider=TracerProvider(sampler=ALWAYS_OFF),
        meter_provider=MeterProvider(metric_readers=[reader]),
        process_hook=lambda span, message: hooked.append(message),
    )
    client = offline_client()
    client.on_message = on_message
    client._handle_on_message(mqtt.MQTTMessage(topic=b"topic"))
    assert len(hooked) == 1
    data = reader.get_metrics_data()
    assert data is not None
    metrics = {metric.name: metric for metric in data.resource_metrics[0].scope_metrics[0].metrics}
    (point,) = metrics["messaging.process.duration"].data.data_points
    assert point.count == 1  # pyright: ignore[reportAttributeAccessIssue] (it is a histogram)


@pytest.mark.usefixtures("instrumented")
def test_a_client_is_freed_as_without_us():
    client = offline_client()
    client.publish("topic", qos=1)
    freed = weakref.ref(client)
    del client
    assert freed() is None


def test_suppressed_exporters_that_disconnect_end_no_span(instrument, spans):
    instrument()
    client = offline_client()
    client.publish("topic", qos=1)
    with suppress_instrumentation():
        client.disconnect()
    assert spans.of_kind(SpanKind.PRODUCER) == []


def test_the_time_of_an_end_that_was_noted_is_that_of_the_note(instrument, spans):
    instrument()
    client = offline_client()
    client.publish("topic", qos=1)
    del client
    gc.collect()
    noted = time.time_ns()
    offline_client().disconnect()
    assert spans.published(1)[0].end_time <= noted
