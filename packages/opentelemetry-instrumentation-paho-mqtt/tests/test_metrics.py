# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""The messaging metrics."""

import gc
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor, process_span
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from paho.mqtt.enums import CallbackAPIVersion

Connect = Callable[..., mqtt.Client]
SEND = {"messaging.operation.type": "send"}
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)


class Meters:
    """Reads the metrics of one test."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider(metric_readers=[self._reader])

    def read(self) -> dict[str, list[Any]]:
        """The data points of each metric."""
        data = self._reader.get_metrics_data()
        metrics = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics] if data else []
        self.units = {metric.name: metric.unit for metric in metrics}
        return {metric.name: list(metric.data.data_points) for metric in metrics}


@pytest.fixture
def meters(instrument) -> Meters:
    meters = Meters()
    instrument(meter_provider=meters.provider, destination_templates=["tests/#"])
    return meters


def attributes(broker, operation: str, **others: Any) -> dict[str, Any]:
    return {
        "messaging.system": "mqtt",
        "messaging.operation.name": operation,
        "messaging.destination.template": "tests/#",
        "server.address": "127.0.0.1",
        "server.port": broker.port,
        **others,
    }


def test_publishing_and_processing(connect: Connect, broker, meters, spans, topic):
    client = connect(topic)
    for qos in (0, 1, 2):
        client.publish(topic, qos=qos)
    published, processed = spans.published(3), spans.processed(3)
    client.disconnect()
    client.loop_stop()
    metrics = meters.read()
    assert {
        name: [(point.count if hasattr(point, "count") else point.value, dict(point.attributes)) for point in points]
        for name, points in metrics.items()
    } == {
        "messaging.client.sent.messages": [(3, attributes(broker, "publish"))],
        "messaging.client.operation.duration": [(3, attributes(broker, "publish", **SEND))],
        "messaging.client.consumed.messages": [(3, attributes(broker, "process"))],
        "messaging.process.duration": [(3, attributes(broker, "process"))],
    }
    assert (
        meters.units["messaging.client.sent.messages"]
        == meters.units["messaging.client.consumed.messages"]
        == "{message}"
    )
    for name, timed in (("messaging.client.operation.duration", published), ("messaging.process.duration", processed)):
        (point,) = metrics[name]
        assert point.explicit_bounds == BUCKETS
        assert meters.units[name] == "s"
        assert point.sum == pytest.approx(sum(span.end_time - span.start_time for span in timed) / 1e9, abs=0.01)


def test_failures_are_counted_by_their_type(connect: Connect, broker, meters, spans, topic):
    def on_message(*_):
        raise LookupError

    client = connect(topic, on_message=on_message)
    client.suppress_exceptions = True
    client.publish(topic, qos=1)
    spans.processed(1)
    client.publish("forbidden/topic", qos=1)
    spans.published(2)
    client.disconnect()
    client.loop_stop()
    metrics = meters.read()
    (process,) = metrics["messaging.process.duration"]
    assert dict(process.attributes) == attributes(broker, "process", **{"error.type": "LookupError"})
    (consumed,) = metrics["messaging.client.consumed.messages"]
    assert "error.type" not in consumed.attributes
    errors = {point.attributes.get("error.type") for point in metrics["messaging.client.sent.messages"]}
    assert errors == {None, "Not authorized"}


def failures(metrics: dict[str, list[Any]]) -> dict[str, int]:
    """How many publishes ended, by ``error.type``."""
    points = metrics["messaging.client.operation.duration"]
    return {point.attributes.get("error.type", ""): point.count for point in points}


@pytest.mark.parametrize("protocol", [mqtt.MQTTv311, mqtt.MQTTv5])
def test_what_was_never_sent_is_not_counted_as_sent(meters, topic, protocol):
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=protocol)
    client.max_queued_messages_set(2)
    client.publish(topic, qos=1)
    client.publish(topic, qos=2)
    assert meters.read() == {}
    client.publish(topic, qos=1)
    client.publish(topic, qos=0)
    with pytest.raises(ValueError, match="Invalid QoS level"):
        client.publish(topic, qos=3)
    client.disconnect()
    metrics = meters.read()
    assert "messaging.client.sent.messages" not in metrics
    assert failures(metrics) == {"MQTT_ERR_QUEUE_SIZE": 1, "MQTT_ERR_NO_CONN": 1, "ValueError": 1, "disconnect": 2}


def sent(metrics: dict[str, list[Any]]) -> int:
    return sum(point.value for point in metrics["messaging.client.sent.messages"])


@pytest.mark.parametrize("protocol", [mqtt.MQTTv311, mqtt.MQTTv5])
@pytest.mark.parametrize("reconnects", [0, 1])
def test_what_went_out_and_was_never_acknowledged_is_counted_as_sent(meters, topic, protocol, reconnects):
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=protocol)
        client.max_inflight_messages_set(2)
        client.connect(*deaf.getsockname())
        for qos in (1, 2, 1):
            client.publish(topic, qos=qos)
        for _ in range(reconnects):
            client.reconnect()
        client.disconnect()
        PahoMqttInstrumentor().uninstrument()
    metrics = meters.read()
    assert sent(metrics) == 2, "the third waited for a place among those in flight"
    assert sum(failures(metrics).values()) == 3


def test_a_message_that_the_client_took_with_it_is_not_counted_as_sent(meters, topic):
    mqtt.Client(CallbackAPIVersion.VERSION2).publish(topic, qos=1)
    gc.collect()
    mqtt.Client(CallbackAPIVersion.VERSION2).publish(topic)
    metrics = meters.read()
    assert "messaging.client.sent.messages" not in metrics
    assert failures(metrics) == {"discarded": 1, "MQTT_ERR_NO_CONN": 1}


def test_a_message_handed_over_is_counted_once(instrument, topic):
    meters = Meters()
    instrument(meter_provider=meters.provider, process_spans=False)
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    received: list[mqtt.MQTTMessage] = []
    client.on_message = lambda client, userdata, message: received.append(message)
    client._handle_on_message(mqtt.MQTTMessage(topic=topic.encode()))
    with process_span(received[0]):
        pass
    metrics = meters.read()
    assert [point.value for point in metrics["messaging.client.consumed.messages"]] == [1]
    assert [point.count for point in metrics["messaging.process.duration"]] == [1]


def test_processing_without_a_context_is_counted_apart(connect: Connect, broker, meters, spans, topic):
    client = connect(topic)
    client.publish(topic, qos=1)
    connect(protocol=mqtt.MQTTv311).publish(topic, qos=1)
    spans.processed(2)
    client.disconnect()
    client.loop_stop()
    metrics = meters.read()
    missing = [dict(point.attributes) for point in metrics["messaging.process.duration"] if point.count == 1]
    assert attributes(broker, "process", **{"mqtt.missing_context": True}) in missing
    assert attributes(broker, "process") in missing
    assert [point.value for point in metrics["messaging.client.consumed.messages"]] == [2]


def test_the_failed_processing_without_a_context_says_both(meters):
    with pytest.raises(LookupError), process_span(mqtt.MQTTMessage(topic=b"tests/both")):
        raise LookupError
    (point,) = meters.read()["messaging.process.duration"]
    assert point.attributes["mqtt.missing_context"] is True
    assert point.attributes["error.type"] == "LookupError"


def test_durations_have_exemplars_that_lead_to_their_spans(connect: Connect, meters, spans, topic):
    client = connect(topic)
    client.publish(topic, qos=1)
    (processed,) = spans.processed(1)
    (published,) = spans.published(1)
    client.disconnect()
    client.loop_stop()
    metrics = meters.read()
    for name, span in (("messaging.client.operation.duration", published), ("messaging.process.duration", processed)):
        (point,) = metrics[name]
        (exemplar,) = point.exemplars
        assert (exemplar.trace_id, exemplar.span_id) == (span.context.trace_id, span.context.span_id), name


def test_counts_go_on_when_it_is_instrumented_again(tracer_provider):
    meters = Meters()
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    for _ in range(2):
        PahoMqttInstrumentor().instrument_client(
            client, tracer_provider=tracer_provider, meter_provider=meters.provider
        )
        client._handle_on_message(mqtt.MQTTMessage(topic=b"topic"))
        PahoMqttInstrumentor().uninstrument_client(client)
    (point,) = meters.read()["messaging.client.consumed.messages"]
    assert point.value == 2


def test_threads_that_count_at_once_lose_no_message(meters):
    def receive() -> None:
        for _ in range(500):
            client._handle_on_message(mqtt.MQTTMessage(topic=b"topic"))

    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    threads = [threading.Thread(target=receive) for _ in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        meters.read()
    (point,) = meters.read()["messaging.client.consumed.messages"]
    assert point.value == 4000


def test_metrics_that_are_set_up_after_the_instrumentation_and_go_on_in_a_child():
    program = textwrap.dedent("""
        import os, sys

        import paho.mqtt.client as mqtt
        from opentelemetry import metrics
        from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor, counter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader

        def receive():
            mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)._handle_on_message(mqtt.MQTTMessage(topic=b"topic"))
            data = reader.get_metrics_data()
            if data is None:
                return None
            (metric,) = [m for m in data.resource_metrics[0].scope_metrics[0].metrics if m.name.endswith("messages")]
            return metric.data.data_points[0].value

        reader = InMemoryMetricReader()
        provider = MeterProvider(metric_readers=[reader])
        PahoMqttInstrumentor().instrument()
        print(receive())
        metrics.set_meter_provider(provider)
        print(receive())
        PahoMqttInstrumentor().uninstrument()
        PahoMqttInstrumentor().instrument()
        print(receive(), flush=True)
        counter._lock.acquire()
        if os.fork() == 0:
            print(receive())
            sys.exit()
        os.wait()
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout.split(), done.stderr) == (["None", "1", "2", "3"], "")
