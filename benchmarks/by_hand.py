"""What the instrumentation does, written by hand around raw paho: the limit of what it can cost.

The spans and the metrics are those that the instrumentation makes of one message, but for what each message changes.
Nothing else is done: no hooks, no options, no failures, no connection that is lost.
"""

from collections import deque
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

from opentelemetry import trace
from opentelemetry.context import attach, detach
from opentelemetry.metrics import get_meter
from opentelemetry.propagate import extract, inject
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Link, SpanKind, set_span_in_context
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

Method = Callable[..., Any]


class ByHand:
    """The methods that replace those of paho.

    Args:
        publish: The publish span of one message.
        process: Its process span.
        data: Its metrics.
        names: The placeholders in their names and attributes.
    """

    def __init__(
        self, publish: ReadableSpan, process: ReadableSpan, data: MetricsData, names: Mapping[str, str]
    ) -> None:
        def renamed(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
            return {name: names.get(value, value) for name, value in (attributes or {}).items()}

        self._publish_name, self._process_name = (
            span.name.partition(" ")[0] + " " + names.get(span.name.partition(" ")[2], span.name.partition(" ")[2])
            for span in (publish, process)
        )
        self._publish_attributes, self._process_attributes = renamed(publish.attributes), renamed(process.attributes)
        self._links_to_parent = bool(process.links)
        found = [metric for scope in data.resource_metrics[0].scope_metrics for metric in scope.metrics]
        self._metric_attributes = {metric.name: renamed(metric.data.data_points[0].attributes) for metric in found}
        meter = get_meter("benchmark")
        self._sent = meter.create_counter("messaging.client.sent.messages", "{message}")
        self._consumed = meter.create_counter("messaging.client.consumed.messages", "{message}")
        boundaries = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]
        self._operation_duration, self._process_duration = (
            meter.create_histogram(name, "s", explicit_bucket_boundaries_advisory=boundaries)
            for name in ("messaging.client.operation.duration", "messaging.process.duration")
        )
        self._tracer = trace.get_tracer("benchmark")
        self._open: dict[int, Any] = {}
        self._noted: deque[int] = deque()

    def publish(self, original: Method) -> Method:
        """Replaces ``Client.publish``."""
        attributes_of_all = self._publish_attributes

        def publish(client: Any, topic: str, payload: str, qos: int = 0, **others: Any) -> Any:
            attributes = {**attributes_of_all, "messaging.message.body.size": len(payload)}
            span = self._tracer.start_span(self._publish_name, kind=SpanKind.PRODUCER, attributes=attributes)
            started = perf_counter()
            context = set_span_in_context(span)
            carrier: dict[str, str] = {}
            inject(carrier, context)
            properties = Properties(PacketTypes.PUBLISH)
            properties.UserProperty = list(carrier.items())
            info = original(client, topic, payload, qos, properties=properties)
            self._open[info.mid] = span, started, context
            if info.is_published():  # the acknowledgement came first
                self._acknowledged(info.mid)
            return info

        return publish

    def do_on_publish(self, original: Method) -> Method:
        """Replaces ``Client._do_on_publish``, where paho holds its lock; the SDK must not work under that lock."""

        def do_on_publish(client: Any, mid: int, *arguments: Any) -> Any:
            self._noted.append(mid)
            return original(client, mid, *arguments)

        return do_on_publish

    def handle_pubackcomp(self, original: Method) -> Method:
        """Replaces ``Client._handle_pubackcomp``, which calls ``_do_on_publish``."""

        def handle_pubackcomp(client: Any, *arguments: Any) -> Any:
            result = original(client, *arguments)
            while self._noted:
                self._acknowledged(self._noted.popleft())
            return result

        return handle_pubackcomp

    def _acknowledged(self, mid: int) -> None:
        entry = self._open.pop(mid, None)
        if entry is not None:
            span, started, context = entry
            span.end()
            self._sent.add(1, self._metric_attributes["messaging.client.sent.messages"])
            self._operation_duration.record(
                perf_counter() - started, self._metric_attributes["messaging.client.operation.duration"], context
            )

    def handle_on_message(self, original: Method) -> Method:
        """Replaces ``Client._handle_on_message``."""
        attributes_of_all = self._process_attributes

        def handle_on_message(client: Any, message: Any) -> None:
            context = extract(dict(message.properties.UserProperty))
            attributes = {**attributes_of_all, "messaging.message.body.size": len(message.payload)}
            links = [Link(trace.get_current_span(context).get_span_context())] if self._links_to_parent else None
            span = self._tracer.start_span(
                self._process_name, context, kind=SpanKind.CONSUMER, attributes=attributes, links=links
            )
            started = perf_counter()
            self._consumed.add(1, self._metric_attributes["messaging.client.consumed.messages"])
            context = set_span_in_context(span, context)
            token = attach(context)
            try:
                original(client, message)
            except Exception as error:
                span.record_exception(error)
                raise
            finally:
                detach(token)
                span.end()
                self._process_duration.record(
                    perf_counter() - started, self._metric_attributes["messaging.process.duration"], context
                )

        return handle_on_message
