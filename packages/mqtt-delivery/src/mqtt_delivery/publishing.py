"""Publishes messages and waits for the broker's acknowledgement."""

from __future__ import annotations

import threading
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from mqtt_delivery.connection import reason
from mqtt_delivery.terms import Terms

# At most this many messages are in flight; fewer if the broker's Receive Maximum is lower (MQTT 5.0, 3.2.2.3.3).
IN_FLIGHT = 20
LET_GO = object()


class PublishError(Exception):
    """The broker has not accepted a message.

    Args:
        reason: The broker's reason, or that it did not answer.
        error_type: ``error.type``: the name of the MQTT 5 reason code, or why there is no answer.
    """

    def __init__(self, reason: str, error_type: str) -> None:
        super().__init__(reason)
        self.error_type = error_type


class AcknowledgedPublishes:
    """Publishes with QoS 1 and waits for the PUBACK (MQTT 5.0, 3.4); several threads may use it.

    Args:
        client: The client; this object sets its ``on_publish``.
    """

    def __init__(self, client: mqtt.Client) -> None:
        self._client = client
        # Answers that somebody asks for, None until they come. A missing entry was given up.
        self._answers: dict[int, ReasonCode | None] = {}
        # An answer can come before publish() returns: these did. And how many threads are in publish().
        self._early: dict[int, ReasonCode] = {}
        self._publishing = 0
        # How many messages the broker has not answered, whether or not somebody still asks for the answer.
        self._unanswered = 0
        self._receive_maximum = IN_FLIGHT
        self._changed = threading.Condition()
        self.terms = Terms()
        client.max_inflight_messages_set(0)
        client.on_publish = self._on_publish

    def connected(self, terms: Terms) -> None:
        """Applies the terms of a new connection."""
        with self._changed:
            self.terms = terms
            self._receive_maximum = min(IN_FLIGHT, terms.receive_maximum)
            too_many = self._unanswered > self._receive_maximum
        if too_many:
            # paho would send all of them again at once.
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
        """Publishes a message, and returns when the broker has it.

        Raises:
            PublishError: The broker refuses it, or does not answer in time.
            ValueError: The topic cannot be published to.
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
        """Publishes a message as soon as Receive Maximum allows; returns its id, for ``answer``.

        Raises:
            PublishError: There is no room in time, paho's queue is full, or the broker does not accept such a message.
            ValueError: The topic cannot be published to.
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
            # Without our lock: the network thread may hold a lock of paho while it waits for ours.
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
        """Returns the broker's answer to a message, once; None if there is none yet."""
        with self._changed:
            return self._answers.pop(mid) if self._answers.get(mid) is not None else None

    def forget(self, mid: int) -> None:
        """Drops the answer to a message: nobody will ask for it."""
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
