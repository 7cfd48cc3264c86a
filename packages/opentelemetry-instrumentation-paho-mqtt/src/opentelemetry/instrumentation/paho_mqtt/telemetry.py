# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""The tracer, the metrics and the options that the wrappers around paho use, for all clients or for one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from opentelemetry.context import get_current
from opentelemetry.instrumentation.paho_mqtt import private
from opentelemetry.instrumentation.paho_mqtt.clients import ClientTable, known_clients
from opentelemetry.instrumentation.paho_mqtt.conventions import SCHEMA_URL, Conventions, connection_attributes
from opentelemetry.instrumentation.paho_mqtt.json_envelope import JsonEnvelope
from opentelemetry.instrumentation.paho_mqtt.metrics import Metrics
from opentelemetry.instrumentation.paho_mqtt.sdk import is_sdk
from opentelemetry.instrumentation.paho_mqtt.topics import TopicFilters
from opentelemetry.instrumentation.paho_mqtt.version import __version__
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.metrics import MeterProvider, Observation, get_meter
from opentelemetry.trace import Span, Tracer, TracerProvider, get_tracer, get_tracer_provider
from opentelemetry.util.types import AttributeValue
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.properties import Properties

if TYPE_CHECKING:
    from typing_extensions import Unpack  # typing has it from Python 3.11 on

PublishHook = Callable[[Span, str, Any, Properties], None]
ProcessHook = Callable[[Span, MQTTMessage], None]

_logger = logging.getLogger(__name__)

_SCOPE = "opentelemetry.instrumentation.paho_mqtt"


class Options(TypedDict, total=False):
    """Options of ``instrument`` and ``instrument_client``; all are optional."""

    tracer_provider: TracerProvider | None
    meter_provider: MeterProvider | None
    publish_hook: PublishHook | None
    process_hook: ProcessHook | None
    process_spans: bool | None
    process_links: bool | None
    baggage_keys: Iterable[str] | None
    settle_spans: bool | None
    destination_templates: Iterable[str] | None
    topics_in_span_names: bool | None
    json_envelope: Iterable[str] | None
    connection_metrics: bool | None


@dataclass(eq=False)
class Telemetry:
    """The telemetry of all clients, or of one."""

    tracer: Tracer
    metrics: Metrics
    conventions: Conventions
    publish_hook: PublishHook | None
    process_hook: ProcessHook | None
    process_spans: bool
    process_links: bool | None
    baggage_keys: frozenset[str] | None
    settle_spans: bool
    json_envelope: JsonEnvelope | None
    tracer_provider: TracerProvider | None
    has_sdk: bool = False
    ends_at_exit: bool = False

    @classmethod
    def create(cls, **options: Unpack[Options]) -> Telemetry:
        """Makes it from the user's options. An option that is None counts as not given; an unknown one is ignored.

        Raises:
            TypeError: A single string was given for a list.
        """
        if unknown := options.keys() - Options.__annotations__.keys():
            _logger.warning("options that are unknown: %s", ", ".join(sorted(unknown)))
        tracer_provider, meter_provider = options.get("tracer_provider"), options.get("meter_provider")
        process_spans, settle_spans = options.get("process_spans"), options.get("settle_spans")
        json_envelope, baggage_keys = options.get("json_envelope"), options.get("baggage_keys")
        if isinstance(baggage_keys, str):
            raise TypeError(f"a list of keys is needed, not the string {baggage_keys!r}")
        meter = get_meter(_SCOPE, __version__, meter_provider, SCHEMA_URL)
        in_flight = (lambda: _in_flight(metrics)) if options.get("connection_metrics") else None
        metrics = Metrics(meter, meter_provider, in_flight)
        return cls(
            tracer=get_tracer(_SCOPE, __version__, tracer_provider, SCHEMA_URL),
            metrics=metrics,
            conventions=Conventions(
                TopicFilters(options.get("destination_templates") or ()), bool(options.get("topics_in_span_names"))
            ),
            publish_hook=options.get("publish_hook"),
            process_hook=options.get("process_hook"),
            process_spans=process_spans is None or process_spans,
            process_links=options.get("process_links"),
            baggage_keys=None if baggage_keys is None else frozenset(baggage_keys),
            settle_spans=settle_spans is None or settle_spans,
            json_envelope=JsonEnvelope(json_envelope) if json_envelope else None,
            tracer_provider=tracer_provider,
        )

    def finds_sdk(self) -> bool:
        """Looks for an SDK, which may be set up at any time; ``has_sdk`` holds the last result."""
        self.has_sdk = is_sdk(self.tracer_provider or get_tracer_provider()) or self.metrics.listens()
        return self.has_sdk


class Assignments:
    """Which client has which telemetry: its own, else that of all clients; None if it has none."""

    def __init__(self) -> None:
        self.everyone: Telemetry | None = None
        self.single: ClientTable[Telemetry | None] = ClientTable()

    def of(self, client: Client | None) -> Telemetry | None:
        """The telemetry of a client."""
        if client is None or not self.single:
            return self.everyone
        return self.single.get(client, self.everyone)

    def forget_exceptions(self) -> None:
        """Forgets the clients that were excluded from the telemetry of all clients."""
        for client in self.single.clients():
            if self.single.get(client, None) is None:
                self.single.pop(client)

    def any_single(self) -> bool:
        """Whether any client has telemetry of its own."""
        return any(telemetry is not None for telemetry in self.single.values())


assignments = Assignments()


def is_enabled() -> bool:
    """Whether instrumentation is not suppressed by the context, which is mostly empty."""
    return not get_current() or is_instrumentation_enabled()


def _in_flight(metrics: Metrics) -> list[Observation]:
    """The messages in flight to each server, for the clients with these metrics."""
    counts: dict[frozenset[tuple[str, AttributeValue]], int] = {}
    for client in known_clients():
        telemetry = assignments.of(client)
        if telemetry is not None and telemetry.metrics is metrics:
            server = frozenset(connection_attributes(client).items())
            counts[server] = counts.get(server, 0) + private.in_flight(client)
    return [Observation(count, dict(server)) for server, count in counts.items()]
