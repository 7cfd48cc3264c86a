"""A bounded number of threads; what comes from one device stays in order."""

import queue
import threading
import time
import zlib
from collections.abc import Callable

from consumer.acknowledgements import Delivery

Handle = Callable[[list[Delivery]], None]


class Workers:
    """Hands each delivery to the worker of its topic, so that the readings of a device never overtake each other.

    The queues have no bound of their own: the broker sends no more than Receive Maximum ahead of acknowledgements.

    Args:
        count: How many threads.
        handle: Called with up to ``batch_size`` deliveries.
        batch_size: How many deliveries are handled at once.
        batch_seconds: How long a batch waits to fill up.
    """

    def __init__(self, count: int, handle: Handle, batch_size: int = 1, batch_seconds: float = 0.0) -> None:
        self._handle = handle
        self._batch_size = batch_size
        self._batch_seconds = batch_seconds
        self._queues: list[queue.SimpleQueue[Delivery | None]] = [queue.SimpleQueue() for _ in range(count)]
        self._threads = [
            threading.Thread(target=self._work, args=(waiting,), name=f"worker-{number}", daemon=True)
            for number, waiting in enumerate(self._queues)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, delivery: Delivery) -> None:
        """Leaves a delivery to its worker."""
        worker = zlib.crc32(delivery.message._topic) % len(self._queues)
        self._queues[worker].put(delivery)

    def stop(self, timeout_seconds: float) -> None:
        """Lets the workers finish what they have; what is not done in time stays with the broker."""
        for waiting in self._queues:
            waiting.put(None)
        deadline = time.monotonic() + timeout_seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self, waiting: queue.SimpleQueue[Delivery | None]) -> None:
        while (first := waiting.get()) is not None:
            self._handle([first, *self._more(waiting)])

    def _more(self, waiting: queue.SimpleQueue[Delivery | None]) -> list[Delivery]:
        """The rest of a batch: what comes within the time that a batch may wait."""
        batch: list[Delivery] = []
        deadline = time.monotonic() + self._batch_seconds
        while len(batch) < self._batch_size - 1:
            try:
                delivery = waiting.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if delivery is None:
                waiting.put(None)
                break
            batch.append(delivery)
        return batch
