"""A message of its own that has to come back: it proves the link, the broker's ACL, its routing and its backlog."""

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

# When nothing has come for so long, a consumer sends itself a message; then it is not healthy; and then it has lost
# more than a connection.
BEAT_SECONDS = 5.0
UNHEALTHY_SECONDS = 15.0
SILENCE_SECONDS = 30.0


class Heartbeat:
    """Whether what is published is delivered.

    Any message counts that comes. When none does, one is sent to ``heartbeat/<client id>``, to which the session is
    subscribed. It waits at the broker behind what came before, which counts meanwhile.

    Args:
        publishes: What to publish through.
        wanted: Whether one is ever sent; without, nothing is known of delivery.
        held_back: Whether messages are here that were not acknowledged: then the broker may rightly send no more.
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
        """For how long nothing came that should have; 0 if nobody can tell."""
        if not self._wanted or self._refused or self._held_back():
            self._came = time.monotonic()
        return time.monotonic() - self._came

    @property
    def refused(self) -> bool:
        """Whether the broker does not let it through, so that it says nothing."""
        self._hear_answer()
        return self._refused

    @property
    def is_back(self) -> bool:
        """Whether the last one that was sent has come back."""
        return self._sent is None

    def connected(self, client_id: str) -> None:
        """Begins anew, on the topic of this client: the broker may have other rules now."""
        # One level, whatever is in the id.
        self.topic = f"heartbeat/{re.sub('[+#/]', '_', client_id)}"
        self._came, self._refused = time.monotonic(), False
        if self._mid is not None:
            self._publishes.forget(self._mid)
            self._mid = None

    def refuse(self, why: str) -> None:
        """Notes that the broker does not let it through."""
        self._refused = True
        log.warning("whether messages are delivered is not known: %s", why)

    def came(self, payload: bytes | None = None) -> None:
        """Notes that a message came; with its payload if it was a heartbeat."""
        self._came = time.monotonic()
        if payload == self._sent:
            self._sent = None

    def beat(self) -> None:
        """Sends one if nothing has come for some time, and the broker has answered the last one."""
        due = min(self.silent_seconds, time.monotonic() - self._sent_at) > BEAT_SECONDS
        if due and not self.refused and self._mid is None:
            self.send()

    def send(self) -> None:
        """Sends one, unless the broker has so many messages to answer that it takes no more now."""
        self._sent_at = time.monotonic()
        self._sent = f"{self._process}-{next(self._numbers)}".encode()
        # Nobody's trace is the better for it.
        with suppress_instrumentation(), suppress(PublishError):
            self._mid = self._publishes.begin(self.topic, self._sent)

    def _hear_answer(self) -> None:
        if self._mid is not None and (answer := self._publishes.answer(self._mid)) is not None:
            self._mid = None
            if answer.is_failure:
                self.refuse(f"the broker refuses a message on {self.topic}: {reason(answer)}")
