"""Decides when a message is tried again, and when it gives way to the others."""

from __future__ import annotations

import time
from typing import Any

from tenacity import RetryCallState, Retrying, wait_random_exponential
from tenacity.wait import wait_base

from mqtt_delivery.acknowledgements import Acknowledgements, Delivery
from mqtt_delivery.dead_letters import DeadLetter
from mqtt_delivery.workers import Lane

# A key that gave way is not tried again for this many times the duration of its attempt.
REST = 10
UNTRIED = DeadLetter("gave_way", "gave way untried: its key had failed, and held up the messages of others", "gave_way")

DEFAULT_WAIT = wait_random_exponential(multiplier=0.2, max=5)


class Patience:
    """Decides what becomes of a delivery whose attempt has failed.

    A message that is tried again holds back the acknowledgements of all later messages (MQTT 5.0, 4.6), and at Receive
    Maximum the broker sends no more. So it is tried again as long as there is room, or no message at all succeeds. If
    the others are done and only wait for it, it gives way.

    Args:
        acknowledgements: Knows which messages wait for which.
        wait: The pause between attempts: a wait strategy of tenacity.
        retry_seconds: How long a message is tried, from its first attempt on.
        hold_up_seconds: How long the messages of a key may fail and hold up the others.
    """

    def __init__(
        self, acknowledgements: Acknowledgements, wait: wait_base, retry_seconds: float, hold_up_seconds: float
    ) -> None:
        self._acknowledgements = acknowledgements
        self._wait = wait
        self._retry_seconds = retry_seconds
        self._hold_up_seconds = hold_up_seconds
        self._retrying = Retrying()
        # Keys that are not tried, and until when, by the monotonic clock.
        self._resting: dict[str, float] = {}

    def rests(self, lane: Lane) -> bool:
        """Whether the messages of a key give way untried, because each attempt would hold up the others again."""
        until = self._resting.get(lane.key) if self._resting else None
        return until is not None and time.monotonic() < until

    def after_failure(self, lane: Lane, delivery: Delivery, seconds: float, error: str, error_type: str) -> Any:
        """Returns the pause until the next attempt in seconds, or the dead letter that the message becomes.

        Args:
            lane: The lane of its key.
            delivery: The delivery whose attempt has failed.
            seconds: How long the attempt took.
            error: What went wrong, for people.
            error_type: ``error.type`` of the attempt.
        """
        now = time.monotonic()
        if lane.failing_since is None:
            lane.failing_since = now - seconds
        if now - delivery.first_attempt >= self._retry_seconds:
            return DeadLetter("retries_exhausted", error, error_type)
        failing = now - lane.failing_since
        if failing >= self._hold_up_seconds and self._acknowledgements.holds_up_others(delivery):
            # There is no time to try each message that waits behind it or comes soon.
            if seconds * max(1, len(lane.waiting) - 1) > self._hold_up_seconds:
                self._resting = {key: until for key, until in self._resting.items() if until > now}
                self._resting[lane.key] = now + REST * seconds
            reason = (
                f"gave way to the messages of others, after {lane.key[:200]} had failed for {failing:.1f} s: {error}"
            )
            return DeadLetter("gave_way", reason, error_type)
        state = RetryCallState(self._retrying, None, (), {})
        state.attempt_number = delivery.attempts
        return self._wait(state)

    def last_attempt(self, lane: Lane) -> float:
        """When to try a message that holds up others for the last time, by the monotonic clock."""
        return max(time.monotonic(), (lane.failing_since or 0.0) + self._hold_up_seconds)
