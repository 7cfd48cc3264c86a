"""What the consumer measures beside what the instrumentation does: its readings, not its messages' ways."""

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from opentelemetry.metrics import CallbackOptions, Observation, get_meter

# A device that was silent for so long is no longer asked after.
FORGET_SECONDS = 3600.0
# From a hand-over on one machine to an hour at a broker whose consumer was away; in seconds.
AGE_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600]


class Measurements:
    """Counts readings and tells which devices have stopped sending.

    Args:
        silent_seconds: A device is silent when nothing came from it for so long.
    """

    def __init__(self, silent_seconds: float) -> None:
        self._silent_seconds = silent_seconds
        self._heard: dict[str, float] = {}
        meter = get_meter("consumer")
        self._messages = meter.create_counter("message_count", "{message}", "Messages that the consumer has taken up")
        self._dead_letters = meter.create_counter(
            "consumer.dead_letters", "{message}", "Messages that were moved to the dead letters"
        )
        self._age = meter.create_histogram(
            "consumer.reading.age",
            "s",
            "Age of a reading, by its own timestamp, when it has been processed",
            explicit_bucket_boundaries_advisory=AGE_BUCKETS,
        )
        meter.create_observable_gauge(
            "consumer.devices.silent", [self._silent], "{device}", "Devices from which nothing has come lately"
        )

    def taken_up(self, topic: str) -> None:
        """Counts a message, and notes that its device is alive."""
        self._messages.add(1)
        self._heard[topic] = time.monotonic()

    def processed(self, reading: Any) -> None:
        """Records the age of a reading that echo has taken."""
        try:
            taken = datetime.fromisoformat(reading["timestamp"])
            seconds = (datetime.now(UTC) - taken).total_seconds()
        except (KeyError, TypeError, ValueError):
            return
        # The clock of a device may be ahead of this one.
        self._age.record(max(0.0, seconds))

    def dead_lettered(self, error_type: str) -> None:
        """Counts a message that could not be processed."""
        self._dead_letters.add(1, {"error.type": error_type})

    def _silent(self, options: CallbackOptions) -> Iterable[Observation]:
        now = time.monotonic()
        heard = list(self._heard.items())
        for topic, last in heard:
            if now - last > FORGET_SECONDS:
                self._heard.pop(topic, None)
        yield Observation(sum(self._silent_seconds < now - last <= FORGET_SECONDS for _, last in heard))
