"""The metrics of this package, in addition to the ``messaging.*`` metrics of the instrumentation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from opentelemetry.metrics import CallbackOptions, Meter, Observation, get_meter

from mqtt_delivery.version import __version__

ERROR_TYPE = "error.type"
CAUSE = "mqtt_delivery.cause"


def meter() -> Meter:
    """The meter of the package."""
    return get_meter("mqtt_delivery", __version__)


# By gauge: a function for each consumer or publisher of this process.
_values: dict[str, list[Callable[[], float]]] = {}


def observe(
    name: str,
    unit: str,
    description: str,
    value: Callable[[], float],
    together: Callable[[Iterable[float]], float] = sum,
) -> Callable[[], object]:
    """Creates an observable gauge that reads its value from a function.

    Args:
        name: Its name.
        unit: Its unit.
        description: What it shows.
        value: Returns the value of one consumer or publisher.
        together: Makes one value of those of all consumers or publishers in this process.

    Returns:
        A function to call when the consumer or publisher has ended.
    """
    values = _values.setdefault(name, [])
    values.append(value)

    def look(options: CallbackOptions) -> Iterable[Observation]:
        yield Observation(together([one() for one in tuple(values)] or [0]))

    # The SDK keeps the first gauge of a name, and ignores the functions of the others.
    meter().create_observable_gauge(name, [look], unit, description)
    return lambda: values.remove(value)


# In seconds: from a delivery on one machine to an hour in the broker while the consumer was not connected.
AGE_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600]


class ConsumerMetrics:
    """The counters and the histogram of a consumer."""

    def __init__(self) -> None:
        made = meter()
        self._retries = made.create_counter(
            "mqtt_delivery.consumer.retries", "{attempt}", "Attempts that failed and are made again."
        )
        self._dead_letters = made.create_counter(
            "mqtt_delivery.consumer.dead_letters", "{message}", "Messages that were moved to the dead letters."
        )
        self._duplicates = made.create_counter(
            "mqtt_delivery.consumer.duplicates", "{message}", "Messages that were processed before, by their ids."
        )
        self._sessions_lost = made.create_counter(
            "mqtt_delivery.consumer.sessions.lost",
            "{session}",
            "Sessions that the broker has thrown away or shortened.",
        )
        self._malformed = made.create_counter(
            "mqtt_delivery.consumer.malformed_packets",
            "{packet}",
            "Packets that break the rules of MQTT 5, so that the connection was ended.",
        )
        self._age = made.create_histogram(
            "mqtt_delivery.consumer.message.age",
            "s",
            "Age of a message when it has been processed.",
            explicit_bucket_boundaries_advisory=AGE_BUCKETS,
        )

    def processed(self, made_at: datetime) -> None:
        """Records the age of a message that was processed."""
        # The device's clock may be ahead of ours.
        self._age.record(max(0.0, (datetime.now(UTC) - made_at).total_seconds()))

    def retried(self, error_type: str) -> None:
        """Counts a failed attempt that is followed by another."""
        self._retries.add(1, {ERROR_TYPE: error_type})

    def dead_lettered(self, error_type: str, cause: str) -> None:
        """Counts a message that became a dead letter."""
        self._dead_letters.add(1, {ERROR_TYPE: error_type, CAUSE: cause})

    def duplicate(self) -> None:
        """Counts a message that was processed before."""
        self._duplicates.add(1)

    def session_lost(self) -> None:
        """Counts a session that the broker has lost or keeps for a shorter time."""
        self._sessions_lost.add(1)

    def malformed_packet(self) -> None:
        """Counts a malformed packet."""
        self._malformed.add(1)
