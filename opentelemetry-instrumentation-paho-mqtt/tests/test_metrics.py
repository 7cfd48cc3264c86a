"""The messaging metrics."""

from collections.abc import Callable
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from opentelemetry.instrumentation.paho_mqtt import process_span
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from paho.mqtt.enums import CallbackAPIVersion

Connect = Callable[..., mqtt.Client]
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)


class Meters:
    """What the metrics of one test are."""

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
        "messaging.operation.type": operation,
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
        "messaging.client.operation.duration": [(3, attributes(broker, "publish"))],
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


def test_a_message_that_waits_is_not_counted_yet(meters, topic):
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.publish(topic, qos=1)
    assert meters.read() == {}
    client.disconnect()
    assert meters.read()["messaging.client.sent.messages"][0].attributes["error.type"] == "disconnect"


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
