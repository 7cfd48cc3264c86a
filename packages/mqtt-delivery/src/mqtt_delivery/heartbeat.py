"""A message that a consumer sends to itself: its return proves the link, and the broker's ACL, routing and backlog."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from uuid import uuid4

from opentelemetry.instrumentation.utils import suppress_instrumentation

from mqtt_delivery.connection import reason
from mqtt_delivery.publishing import AcknowledgedPublishes, PublishError

log = logging.getLogger(__name__)

# When no message has come for this time, a consumer: sends one to itself; is unhealthy; needs more than a reconnect.
BEAT_SECONDS = 5.0
UNHEALTHY_SECONDS = 15.0
SILENCE_SECONDS = 30.0


class Heartbeat:
    """Tells whether the broker delivers what is published.

    Any received message counts. When none comes, a heartbeat is sent to ``heartbeat/<client id>``, to which the session
    is subscribed. At the broker it waits behind older messages; each of those counts when it comes.

    Args:
        publishes: What to publish through.
        wanted: False: no heartbeat is ever sent, and nothing is known about delivery.
        held_back: Tells whether received messages are not acknowledged yet: the broker may then send no more.
    """

    def __init__(self, publishes: AcknowledgedPublishes, wanted: bool, held_back: Callable[[], bool]) -> None:
        self._publishes = publishes
        self._wanted = wanted
        self._held_back = held_back
        self._process = uuid4().hex
        self._numbers = count(1)
        self._refused = False
        self._came = time.monotonic()
        self._sent_at = 0.0
        self._sent: bytes | None = None
        self._mid: int | None = None
        self.topic = ""

    @property
    def silent_seconds(self) -> float:
        """Seconds since the last expected message; 0 if this is unknown."""
        if not self._wanted or self._refused or self._held_back():
            self._came = time.monotonic()
        return time.monotonic() - self._came

    @property
    def refused(self) -> bool:
        """Whether the broker refuses the heartbeat, so that nothing is known about delivery."""
        self._hear_answer()
        return self._refused

    @property
    def is_back(self) -> bool:
        """Whether the last heartbeat has come back."""
        return self._sent is None

    def connected(self, client_id: str) -> None:
        """Starts again, on the topic of this client: the broker's rules may have changed."""
        # The id must not add a level or a wildcard.
        self.topic = f"heartbeat/{re.sub('[+#/]', '_', client_id)}"
        self._came, self._refused = time.monotonic(), False
        if self._mid is not None:
            self._publishes.forget(self._mid)
            self._mid = None

    def refuse(self, why: str) -> None:
        """Notes that the broker refuses the heartbeat."""
        self._refused = True
        log.warning("whether messages are delivered is not known: %s", why)

    def came(self, payload: bytes | None = None) -> None:
        """Notes that a message came; ``payload`` is given for a heartbeat only."""
        self._came = time.monotonic()
        if payload == self._sent:
            self._sent = None

    def beat(self) -> None:
        """Sends a heartbeat if no message has come for some time and the broker has answered the last heartbeat."""
        due = min(self.silent_seconds, time.monotonic() - self._sent_at) > BEAT_SECONDS
        if due and not self.refused and self._mid is None:
            self.send()

    def send(self) -> None:
        """Sends a heartbeat, unless too many publishes still wait for the broker's answer."""
        self._sent_at = time.monotonic()
        self._sent = f"{self._process}-{next(self._numbers)}".encode()
        # A span for it would help nobody.
        with suppress_instrumentation(), suppress(PublishError):
            self._mid = self._publishes.begin(self.topic, self._sent)

    def _hear_answer(self) -> None:
        if self._mid is not None and (answer := self._publishes.answer(self._mid)) is not None:
            self._mid = None
            if answer.is_failure:
                self.refuse(f"the broker refuses a message on {self.topic}: {reason(answer)}")
