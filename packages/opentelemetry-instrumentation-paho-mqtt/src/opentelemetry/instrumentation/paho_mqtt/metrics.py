# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""The `messaging metrics`_ of a client.

.. _messaging metrics: https://opentelemetry.io/docs/specs/semconv/messaging/messaging-metrics/
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from opentelemetry.context import Context
from opentelemetry.instrumentation.paho_mqtt.counter import MessageCounter
from opentelemetry.instrumentation.paho_mqtt.sdk import is_sdk
from opentelemetry.metrics import Meter, MeterProvider, Observation, get_meter_provider
from opentelemetry.semconv._incubating.attributes.messaging_attributes import (  # pyright: ignore[reportMissingTypeStubs] (it has types; pyright overlooks py.typed)
    MESSAGING_OPERATION_TYPE,
    MessagingOperationTypeValues,
)
from opentelemetry.semconv._incubating.metrics.messaging_metrics import (  # pyright: ignore[reportMissingTypeStubs] (as above)
    MESSAGING_CLIENT_CONSUMED_MESSAGES,
    MESSAGING_CLIENT_OPERATION_DURATION,
    MESSAGING_CLIENT_SENT_MESSAGES,
    MESSAGING_PROCESS_DURATION,
)
from opentelemetry.util.types import AttributeValue

MQTT_CLIENT_INFLIGHT_MESSAGES = "messaging.mqtt.client.inflight.messages"
MQTT_CLIENT_RECONNECTS = "messaging.mqtt.client.reconnects"

_SEND = MessagingOperationTypeValues.SEND.value
_SETTLE = MessagingOperationTypeValues.SETTLE.value

# In seconds, as the conventions specify.
_DURATION_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]


class Metrics:
    """The four instruments, and two that are off by default. The counters are made when there is an SDK.

    Args:
        meter: The meter that makes them.
        meter_provider: The provider of the meter; the global one if None.
        in_flight: Observes the messages in flight; None leaves out the two instruments for connections.
    """

    def __init__(
        self,
        meter: Meter,
        meter_provider: MeterProvider | None = None,
        in_flight: Callable[[], Iterable[Observation]] | None = None,
    ) -> None:
        self._meter = meter
        self._meter_provider = meter_provider
        self._sent: MessageCounter | None = None
        self._consumed: MessageCounter | None = None
        self._operation_duration = meter.create_histogram(
            MESSAGING_CLIENT_OPERATION_DURATION,
            "s",
            "Duration of a publish, until the broker's acknowledgement, or of an acknowledgement of the client's own.",
            explicit_bucket_boundaries_advisory=_DURATION_BUCKETS,
        )
        self._process_duration = meter.create_histogram(
            MESSAGING_PROCESS_DURATION,
            "s",
            "Duration of the processing of a message or batch.",
            explicit_bucket_boundaries_advisory=_DURATION_BUCKETS,
        )
        self._reconnects = None
        if in_flight is not None:
            meter.create_observable_gauge(
                MQTT_CLIENT_INFLIGHT_MESSAGES,
                [lambda _: in_flight()],
                "{message}",
                "Messages with QoS 1 or 2 that are on their way to the broker.",
            )
            self._reconnects = meter.create_counter(
                MQTT_CLIENT_RECONNECTS, "{reconnect}", "Connections after the first one of a client."
            )

    def listens(self) -> bool:
        """Whether there is an SDK; each call looks again until there is one."""
        if self._consumed is not None:
            return True
        if not is_sdk(self._meter_provider or get_meter_provider()):
            return False
        self._sent = MessageCounter(
            self._meter, MESSAGING_CLIENT_SENT_MESSAGES, "Messages that the client sent to the broker."
        )
        self._consumed = MessageCounter(
            self._meter, MESSAGING_CLIENT_CONSUMED_MESSAGES, "Messages that were delivered to the application."
        )
        return True

    def published(
        self, seconds: float, attributes: Mapping[str, AttributeValue], context: Context, sent: bool = True
    ) -> None:
        """Records how long a publish took, and counts its message if it was sent to the broker.

        Args:
            seconds: Time from the call to the end of the span.
            attributes: The attributes of the operation, and ``error.type`` if it failed.
            context: The context that contains the span, for exemplars.
            sent: Whether the message was sent.
        """
        if self.listens() and self._sent is not None:
            if sent:
                self._sent.add(1, attributes)
            self._operation_duration.record(seconds, {**attributes, MESSAGING_OPERATION_TYPE: _SEND}, context)

    def settled(self, seconds: float, attributes: Mapping[str, AttributeValue], context: Context) -> None:
        """Records how long an acknowledgement took; ``context`` contains its span, for exemplars."""
        self._operation_duration.record(seconds, {**attributes, MESSAGING_OPERATION_TYPE: _SETTLE}, context)

    def delivered(self, attributes: Mapping[str, AttributeValue]) -> None:
        """Counts a message that reached the application."""
        if self.listens() and self._consumed is not None:
            self._consumed.add(1, attributes)

    def processed(self, seconds: float, attributes: Mapping[str, AttributeValue], context: Context) -> None:
        """Records how long a handler took; ``context`` contains its span, for exemplars."""
        self._process_duration.record(seconds, attributes, context)

    def reconnected(self, attributes: Mapping[str, AttributeValue]) -> None:
        """Counts a connection after the first one of a client."""
        if self._reconnects is not None:
            self._reconnects.add(1, attributes)
