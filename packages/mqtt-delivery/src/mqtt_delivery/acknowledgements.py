"""Acknowledges messages after the work is done, in the order of arrival, as MQTT requires (MQTT 5.0, 4.6.0-2)."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from itertools import count
from typing import TYPE_CHECKING

import paho.mqtt.client as mqtt

if TYPE_CHECKING:
    from mqtt_delivery.dead_letters import DeadLetter
    from mqtt_delivery.workers import Lane

log = logging.getLogger(__name__)

# Longer than paho takes to put a packet into its queue.
HAND_OVER_SECONDS = 1.0


class Delivery:
    """A received message and its state until it is acknowledged.

    Args:
        message: As it came from paho.
        topic: Its topic.
        held_bytes: Its approximate size in memory until it is done.
    """

    __slots__ = (
        "_fingerprint",
        "attempts",
        "awaited",
        "dead_letter",
        "done",
        "first_attempt",
        "held_bytes",
        "id",
        "lane",
        "message",
        "number",
        "redelivered",
        "since",
        "topic",
    )

    def __init__(self, message: mqtt.MQTTMessage, topic: str, held_bytes: int = 0) -> None:
        self.message = message
        self.topic = topic
        self.held_bytes = held_bytes
        self.since = time.monotonic()
        # Its place in the order of arrival, and whether the broker expects its acknowledgement on this connection.
        self.number = 0
        self.awaited = False
        self.redelivered = message.dup
        self.attempts = 0
        self.first_attempt = 0.0
        self.lane: Lane | None = None
        # Set when it must become a dead letter: it is published again until the broker takes it, without the handler.
        self.dead_letter: DeadLetter | None = None
        self.done = False
        self.id: str | None = None
        self._fingerprint: int | None = None

    @property
    def fingerprint(self) -> int:
        """A hash of the content, available after ``release`` too."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.message)
        return self._fingerprint

    def release(self) -> None:
        """Drops the content of a processed message that only waits for its acknowledgement."""
        self._fingerprint = self.fingerprint
        released = mqtt.MQTTMessage(self.message.mid)
        released.qos = self.message.qos
        self.message, self.topic, self.lane = released, "", None


def fingerprint(message: mqtt.MQTTMessage) -> int:
    """A hash that is equal for a message sent again, even with another packet id or without DUP."""
    user_properties = getattr(message.properties, "UserProperty", ())
    return hash((message._topic, bytes(message.payload), tuple(user_properties)))  # pyright: ignore[reportPrivateUsage] (`topic` raises if it is not UTF-8)


class Acknowledgements:
    """Tracks the messages to acknowledge on this connection, and those left over from the one before.

    Args:
        client: What to acknowledge through.
        receive_maximum: How many messages the broker sends ahead of their acknowledgements.
    """

    def __init__(self, client: mqtt.Client, receive_maximum: int) -> None:
        self._client = client
        self._receive_maximum = receive_maximum
        self._exceeded = False
        self._nearly_full = (3 * receive_maximum + 3) // 4
        self._half = (receive_maximum + 1) // 2
        self._lock = threading.Lock()
        # The thread that hands an acknowledgement to paho. Only one does at a time, which keeps the order. It does not
        # hold our lock, because paho releases the interpreter's lock meanwhile.
        self._sender: int | None = None
        self._sent = threading.Condition(self._lock)
        self._arrived: deque[Delivery] = deque()
        self._numbers = count(1)
        self._done = 0
        self._held_bytes = 0
        self._earlier: dict[int, deque[Delivery]] = {}

    @property
    def count(self) -> int:
        """The number of messages whose acknowledgement the broker expects."""
        return len(self._arrived) + (self._sender is not None)

    @property
    def done_count(self) -> int:
        """How many of these are done and wait for earlier messages."""
        return self._done + (self._sender is not None)

    @property
    def held_bytes(self) -> int:
        """Approximate memory in bytes of all messages that are not done, whether the broker waits for them or not."""
        return self._held_bytes

    @property
    def oldest_seconds(self) -> float:
        """Age of the oldest unacknowledged message in seconds; 0 if there is none."""
        with self._lock:
            return time.monotonic() - self._arrived[0].since if self._arrived else 0.0

    def arrived(self, delivery: Delivery) -> bool:
        """Registers a message; False if it came on an earlier connection already and is in work or done."""
        with self._lock:
            known = self._recognise(delivery) if self._earlier else None
            if known is not None:
                known.message.mid = delivery.message.mid
                known.redelivered = True
                self._done += known.done
            else:
                self._held_bytes += delivery.held_bytes
            taken = known or delivery
            if delivery.message.qos > 0:
                taken.number = next(self._numbers)
                taken.awaited = True
                self._arrived.append(taken)
                self._look_at_their_number()
        self._send()
        return known is None

    def done(self, delivery: Delivery) -> Delivery | None:
        """Marks a message as done; it is acknowledged once all earlier messages are done.

        Returns:
            The oldest message, if it holds up the broker: most of what the broker may send ahead is done.
        """
        oldest = None
        with self._lock:
            delivery.done = True
            self._held_bytes -= delivery.held_bytes
            if delivery.awaited:
                self._done += 1
                if not self._arrived[0].done:
                    delivery.release()
                    if self._done >= self._half and len(self._arrived) >= self._nearly_full:
                        oldest = self._arrived[0]
        self._send()
        return oldest

    def connection_lost(self) -> None:
        """Sets unacknowledged messages aside: if the session continues, the broker sends them again."""
        with self._lock:
            # An acknowledgement that is being handed over belongs to this connection and must not go out on the next.
            self._sent.wait_for(lambda: self._sender in (None, threading.get_ident()), HAND_OVER_SECONDS)
            self._earlier.clear()
            for delivery in self._arrived:
                delivery.awaited = False
                self._earlier.setdefault(delivery.fingerprint, deque()).append(delivery)
            self._arrived.clear()
            self._done = 0

    def session_lost(self) -> None:
        """Forgets the messages that were set aside: the broker does not send them again."""
        with self._lock:
            self._earlier.clear()

    def holds_up_others(self, delivery: Delivery) -> bool:
        """Whether Receive Maximum is nearly reached, and many done messages wait behind this one."""
        with self._lock:
            if not delivery.awaited or len(self._arrived) < self._nearly_full or self._done < self._half:
                return False
            behind = sum(other.done for other in self._arrived if other.number > delivery.number)
            return behind >= self._half

    def last_done(self) -> int:
        """The number of the last message that is done but not acknowledged; 0 if there is none."""
        with self._lock:
            return next((delivery.number for delivery in reversed(self._arrived) if delivery.done), 0)

    def _look_at_their_number(self) -> None:
        if len(self._arrived) > self._receive_maximum and not self._exceeded:
            self._exceeded = True
            log.warning("the broker sends more than the Receive Maximum of %d messages ahead", self._receive_maximum)

    def _recognise(self, delivery: Delivery) -> Delivery | None:
        # The content decides, because a broker may use another packet id and leave out DUP. Each is matched only once,
        # so two messages with the same content are both processed.
        same = self._earlier.get(delivery.fingerprint)
        if not same:
            return None
        known = same.popleft()
        if not same:
            del self._earlier[delivery.fingerprint]
        return known

    def _send(self) -> None:
        while (delivery := self._next()) is not None:
            try:
                self._client.ack(delivery.message.mid, delivery.message.qos)
            finally:
                with self._lock:
                    self._sender = None
                    self._sent.notify_all()

    def _next(self) -> Delivery | None:
        with self._lock:
            if self._sender is not None or not self._arrived or not self._arrived[0].done:
                return None
            self._sender = threading.get_ident()
            self._done -= 1
            delivery = self._arrived.popleft()
            delivery.awaited = False
            return delivery
