"""A fixed number of threads: deliveries with the same key stay in order, and keys do not wait for each other."""

from __future__ import annotations

import heapq
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count

from mqtt_delivery.acknowledgements import Delivery


class Lane:
    """The deliveries of one key, in order.

    Attributes:
        key: Their key.
        waiting: The deliveries; the first is in work, or waits for its next attempt.
        failing_since: When the first failed attempt since the last success began; None if the last attempt succeeded.
    """

    __slots__ = ("due", "failing_since", "key", "waiting")

    def __init__(self, key: str) -> None:
        self.key = key
        self.waiting: deque[Delivery] = deque()
        self.failing_since: float | None = None
        # When the first delivery may be tried again; None while it is in work or ready.
        self.due: float | None = None


Work = Callable[[Lane, Delivery], "float | None"]
WorkTogether = Callable[[Sequence[Delivery]], bool]


class Workers:
    """Hands deliveries to threads: those of one key one by one, in order.

    A key that waits for its next attempt occupies no thread. The lanes need no limit of their own, because the broker
    sends no more than Receive Maximum messages ahead of their acknowledgements.

    Args:
        threads: The number of threads.
        work: Processes the first delivery of a lane. Returns None if the delivery is finished, else the seconds until
            the next attempt. Must not raise.
        work_together: Processes several deliveries at once; returns False if they must be processed one by one.
        batch_size: How many deliveries are processed at once, at most.
        batch_seconds: How long a batch waits to fill up.
    """

    def __init__(
        self,
        threads: int,
        work: Work,
        work_together: WorkTogether = lambda _: False,
        batch_size: int = 1,
        batch_seconds: float = 0.0,
    ) -> None:
        self._work = work
        self._work_together = work_together
        self._batch_size = batch_size
        self._batch_seconds = batch_seconds
        self._ready: queue.SimpleQueue[Lane | None] = queue.SimpleQueue()
        self._lanes: dict[str, Lane] = {}
        self._later: list[tuple[float, int, Lane]] = []
        self._numbers = count()
        self._running = 0
        self._stopped = False
        self._last: int | None = None
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._threads = [
            threading.Thread(target=self._take, name=f"mqtt-delivery-worker-{number}", daemon=True)
            for number in range(threads)
        ]
        self._threads.append(threading.Thread(target=self._wake, name="mqtt-delivery-retries", daemon=True))
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """The number of deliveries that wait for a thread or for their next attempt."""
        with self._lock:
            return sum(len(lane.waiting) for lane in self._lanes.values()) - self._running

    def submit(self, key: str, delivery: Delivery) -> None:
        """Adds a delivery to the lane of its key."""
        with self._lock:
            if self._last is not None:
                return
            lane = self._lanes.get(key)
            if lane is None:
                lane = self._lanes[key] = Lane(key)
                lane.waiting.append(delivery)
                self._ready.put(lane)
            else:
                lane.waiting.append(delivery)
            delivery.lane = lane

    def hurry(self, delivery: Delivery, earliest: Callable[[Lane], float]) -> None:
        """Brings the next attempt of a delivery forward, if it waits for one.

        Args:
            delivery: The delivery.
            earliest: Returns when it may be tried, by the monotonic clock.
        """
        with self._lock:
            lane = delivery.lane
            if lane is not None and lane.due is not None and lane.waiting[0] is delivery:
                due = earliest(lane)
                if due < lane.due:
                    self._try_at(lane, due)

    def stop(self, last: Callable[[], int], settled: Callable[[], bool], timeout_seconds: float) -> None:
        """Finishes the deliveries that must be finished, and ends the threads; the broker keeps the rest.

        Args:
            last: Returns the number of the last delivery that is done. Earlier ones are finished, so that it can be
                acknowledged; later ones are not begun.
            settled: Returns whether every done delivery is acknowledged.
            timeout_seconds: How long this may take, at most.
        """
        deadline = time.monotonic() + timeout_seconds
        with self._lock:
            self._last = last()
            while self._running or not settled():
                self._last = max(self._last, last())
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(min(left, 0.05))
            self._stopped = True
            self._changed.notify_all()
        for _ in self._threads:
            self._ready.put(None)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _take(self) -> None:
        while (lane := self._ready.get()) is not None:
            taken = [(lane, self._begin(lane, self._batch_size))]
            if self._batch_size > 1:
                self._fill(taken)
            self._run([(lane, deliveries) for lane, deliveries in taken if deliveries])

    def _fill(self, taken: list[tuple[Lane, list[Delivery]]]) -> None:
        """Fills up a batch with the deliveries that come while it may wait."""
        deadline = time.monotonic() + self._batch_seconds
        missing = self._batch_size - len(taken[0][1])
        while missing > 0:
            try:
                lane = self._ready.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if lane is None:
                self._ready.put(None)
                break
            taken.append((lane, self._begin(lane, missing)))
            missing -= len(taken[-1][1])

    def _begin(self, lane: Lane, limit: int) -> list[Delivery]:
        """Returns the deliveries of a lane to process now."""
        with self._lock:
            if self._stopped:
                return []
            if self._last is None:
                if limit == 1:
                    self._running += 1
                    return [lane.waiting[0]]
                begun = list(lane.waiting)[:limit]
            else:
                begun = [delivery for delivery in list(lane.waiting)[:limit] if delivery.number <= self._last]
                if not begun:
                    # It must still be finished if a later delivery gets done.
                    self._try_at(lane, time.monotonic() + 0.02)
            self._running += len(begun)
            return begun

    def _run(self, taken: list[tuple[Lane, list[Delivery]]]) -> None:
        together = [delivery for _, deliveries in taken for delivery in deliveries]
        if len(together) > 1 and self._work_together(together):
            for lane, deliveries in taken:
                self._finished(lane, len(deliveries), len(deliveries), None)
            return
        for lane, deliveries in taken:
            finished, pause = 0, None
            for delivery in deliveries:
                pause = self._work(lane, delivery)
                if pause is not None:
                    break
                finished += 1
            self._finished(lane, len(deliveries), finished, pause)

    def _finished(self, lane: Lane, begun: int, finished: int, pause: float | None) -> None:
        with self._lock:
            self._running -= begun
            for _ in range(finished):
                lane.waiting.popleft()
            if pause is not None:
                self._try_at(lane, time.monotonic() + pause)
            elif lane.waiting:
                self._ready.put(lane)
            else:
                del self._lanes[lane.key]
            if self._last is not None:
                self._changed.notify_all()

    def _try_at(self, lane: Lane, due: float) -> None:
        lane.due = due
        heapq.heappush(self._later, (due, next(self._numbers), lane))
        self._changed.notify_all()

    def _wake(self) -> None:
        """Makes lanes ready when their next attempt is due."""
        with self._lock:
            while not self._stopped:
                now = time.monotonic()
                while self._later and self._later[0][0] <= now:
                    due, _, lane = heapq.heappop(self._later)
                    # If they differ, the attempt was brought forward.
                    if lane.due == due:
                        lane.due = None
                        self._ready.put(lane)
                self._changed.wait(self._later[0][0] - now if self._later else None)
