"""Publishes that are done when the broker has said so."""

from __future__ import annotations

import threading
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from mqtt_delivery.connection import reason
from mqtt_delivery.terms import Terms

# So many wait for their acknowledgement at once; fewer, where the broker takes fewer (MQTT 5.0, 3.2.2.3.3).
IN_FLIGHT = 20
LET_GO = object()


class PublishError(Exception):
    """The broker has not taken a message.

    Args:
        reason: What it said, or that it said nothing.
        error_type: ``error.type``: the name of the MQTT 5 reason code, or what kept the broker from answering.
    """

    def __init__(self, reason: str, error_type: str) -> None:
        super().__init__(reason)
        self.error_type = error_type


class AcknowledgedPublishes:
    """Publishes with QoS 1 and hears the PUBACK (MQTT 5.0, 3.4); for use by several threads.

    Args:
        client: Its ``on_publish`` is taken.
    """

    def __init__(self, client: mqtt.Client) -> None:
        self._client = client
        # Of what somebody asks for the answer; one that is gone was let go of.
        self._answers: dict[int, ReasonCode | None] = {}
        # An answer can be faster than publish(): those that came while it ran, and how many threads are in it.
        self._early: dict[int, ReasonCode] = {}
        self._publishing = 0
        # What paho has and the broker has not answered, whether or not somebody still waits for that.
        self._unanswered = 0
        self._receive_maximum = IN_FLIGHT
        self._changed = threading.Condition()
        self.terms = Terms()
        client.max_inflight_messages_set(0)
        client.on_publish = self._on_publish

    def connected(self, terms: Terms) -> None:
        """Takes over what holds on a new connection."""
        with self._changed:
            self.terms = terms
            self._receive_maximum = min(IN_FLIGHT, terms.receive_maximum)
            too_many = self._unanswered > self._receive_maximum
        if too_many:
            # paho would send all of it again at once.
            self._client.drop_out_messages()
            with self._changed:
                self._unanswered = 0
                self._answers.clear()
                self._changed.notify_all()

    def publish(
        self,
        topic: str,
        payload: bytes | str,
        properties: Properties | None,
        timeout_seconds: float,
        retain: bool = False,
    ) -> None:
        """Returns when the broker has the message.

        Raises:
            PublishError: The broker refuses it, or does not answer in time.
            ValueError: The topic is none to publish to.
        """
        mid = self.begin(topic, payload, properties, retain, timeout_seconds)
        with self._changed:
            answered = self._changed.wait_for(lambda: self._answers.get(mid, LET_GO) is not None, timeout_seconds)
            reason_code = self._answers.pop(mid, None)
        if not answered:
            raise PublishError(f"the broker did not answer within {timeout_seconds:g} s", "timeout")
        if reason_code is None:
            raise PublishError("the connection was lost before the broker answered", "connection_lost")
        if reason_code.is_failure:
            raise PublishError(f"the broker refuses it: {reason(reason_code)}", str(reason_code))

    def begin(
        self,
        topic: str,
        payload: bytes | str,
        properties: Properties | None = None,
        retain: bool = False,
        timeout_seconds: float = 0.0,
    ) -> int:
        """Hands a message over as soon as the broker takes one more; returns its number, to ask for its ``answer`` by.

        Raises:
            PublishError: It takes no more in time, or paho does not; or it takes nothing like this.
            ValueError: The topic is none to publish to.
        """
        if retain and not self.terms.retained_messages:
            raise PublishError("the broker keeps no retained messages", "Retain not supported")
        if not self.terms.takes(topic, payload.encode() if isinstance(payload, str) else payload, properties):
            raise PublishError(f"its {len(payload)} bytes are too many for the broker", "Packet too large")
        with self._changed:
            if not self._changed.wait_for(lambda: self._unanswered < self._receive_maximum, timeout_seconds):
                raise PublishError(f"the broker did not answer others within {timeout_seconds:g} s", "timeout")
            self._unanswered += 1
            self._publishing += 1
        mid = None
        try:
            # Without the lock: the network thread holds one of paho's, and waits for this one.
            info = self._client.publish(topic, payload, 1, retain, properties)
            if info.rc == mqtt.MQTT_ERR_QUEUE_SIZE:
                raise PublishError("paho's queue is full", info.rc.name)
            mid = info.mid
            return mid
        finally:
            with self._changed:
                self._publishing -= 1
                if mid is None:
                    self._unanswered -= 1
                    self._changed.notify_all()
                else:
                    self._answers[mid] = self._early.pop(mid, None)
                if not self._publishing:
                    self._early.clear()

    def answer(self, mid: int) -> ReasonCode | None:
        """The broker's answer to a message that was handed over, once; None if there is none yet."""
        with self._changed:
            return self._answers.pop(mid) if self._answers.get(mid) is not None else None

    def forget(self, mid: int) -> None:
        """Nobody asks for an answer any more."""
        with self._changed:
            self._answers.pop(mid, None)

    def _on_publish(self, client: mqtt.Client, userdata: Any, mid: int, reason_code: ReasonCode, *_: object) -> None:
        with self._changed:
            self._unanswered = max(0, self._unanswered - 1)
            if mid in self._answers:
                self._answers[mid] = reason_code
            elif self._publishing:
                self._early[mid] = reason_code
            self._changed.notify_all()
