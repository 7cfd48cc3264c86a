# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""The `messaging metrics`_ of a client.

.. _messaging metrics: https://opentelemetry.io/docs/specs/semconv/messaging/messaging-metrics/
"""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry.context import Context
from opentelemetry.instrumentation.paho_mqtt.counter import MessageCounter
from opentelemetry.instrumentation.paho_mqtt.sdk import is_sdk
from opentelemetry.metrics import Meter, MeterProvider, get_meter_provider
from opentelemetry.semconv._incubating.metrics.messaging_metrics import (  # pyright: ignore[reportMissingTypeStubs] (it has types; pyright overlooks py.typed)
    MESSAGING_CLIENT_CONSUMED_MESSAGES,
    MESSAGING_CLIENT_OPERATION_DURATION,
    MESSAGING_CLIENT_SENT_MESSAGES,
    MESSAGING_PROCESS_DURATION,
)
from opentelemetry.util.types import AttributeValue

# In seconds, as the conventions specify.
_DURATION_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]


class Metrics:
    """The four instruments, which are made once there is an SDK.

    Args:
        meter: Makes them.
        meter_provider: Where that is from; the global one if None.
    """

    def __init__(self, meter: Meter, meter_provider: MeterProvider | None = None) -> None:
        self._meter = meter
        self._meter_provider = meter_provider
        self._sent: MessageCounter | None = None
        self._consumed: MessageCounter | None = None
        self._operation_duration = meter.create_histogram(
            MESSAGING_CLIENT_OPERATION_DURATION,
            "s",
            "Duration of a publish, until the broker's acknowledgement.",
            explicit_bucket_boundaries_advisory=_DURATION_BUCKETS,
        )
        self._process_duration = meter.create_histogram(
            MESSAGING_PROCESS_DURATION,
            "s",
            "Duration of the processing of a message or batch.",
            explicit_bucket_boundaries_advisory=_DURATION_BUCKETS,
        )

    def listens(self) -> bool:
        """Whether there is an SDK; until there is one, each call looks."""
        if self._consumed is not None:
            return True
        if not is_sdk(self._meter_provider or get_meter_provider()):
            return False
        self._sent = MessageCounter(
            self._meter, MESSAGING_CLIENT_SENT_MESSAGES, "Messages that the client tried to send to the broker."
        )
        self._consumed = MessageCounter(
            self._meter, MESSAGING_CLIENT_CONSUMED_MESSAGES, "Messages that were delivered to the application."
        )
        return True

    def published(self, seconds: float, attributes: Mapping[str, AttributeValue], context: Context) -> None:
        """Counts a message that was sent, or failed to be; ``context`` holds its span, for the exemplars."""
        if self.listens() and self._sent is not None:
            self._sent.add(1, attributes)
            self._operation_duration.record(seconds, attributes, context)

    def delivered(self, attributes: Mapping[str, AttributeValue]) -> None:
        """Counts a message that reached the application."""
        if self.listens() and self._consumed is not None:
            self._consumed.add(1, attributes)

    def processed(self, seconds: float, attributes: Mapping[str, AttributeValue], context: Context) -> None:
        """Records how long a handler took; ``context`` holds its span, for the exemplars."""
        self._process_duration.record(seconds, attributes, context)
