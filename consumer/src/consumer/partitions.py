"""Several partitions in one process: each has a session at the broker, and a consumer of mqtt-delivery."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from mqtt_delivery import Consumer


class Partitions:
    """The partitions that this process owns.

    A session belongs to a partition, not to a process: it keeps what its owner has not acknowledged, in order. The next
    owner connects with the same client id, and the broker sends it that first.

    Args:
        consumers: The consumer of each, connected.
    """

    def __init__(self, consumers: Sequence[Consumer]) -> None:
        self._consumers = consumers

    @property
    def live(self) -> bool:
        """False if only a restart helps."""
        return all(consumer.live for consumer in self._consumers)

    @property
    def healthy(self) -> bool:
        """Whether the broker delivers from all of them."""
        return all(consumer.healthy for consumer in self._consumers)

    def run(self, stop: threading.Event, healthy: Callable[[], object], drain_seconds: float) -> bool:
        """Runs until told to stop, or until one of them stops; arguments and result as for ``Consumer.run``."""

        def run_one(consumer: Consumer) -> bool:
            try:
                return consumer.run(stop, drain_seconds=drain_seconds)
            finally:
                stop.set()

        with ThreadPoolExecutor(len(self._consumers)) as threads:
            results = threads.map(run_one, self._consumers)
            while not stop.wait(1.0):
                if self.healthy:
                    healthy()
        return all(results)
