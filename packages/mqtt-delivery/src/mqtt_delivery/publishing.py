"""Publishes that are done when the broker has said so."""

from __future__ import annotations

import threading
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

# So many wait for their acknowledgement at once; fewer, where the broker takes fewer (MQTT 5.0, 3.2.2.3.3).
IN_FLIGHT = 20


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
    """Publishes with QoS 1 and waits for the PUBACK (MQTT 5.0, 3.4); for use by several threads.

    Args:
        client: Its ``on_publish`` is taken.
    """

    def __init__(self, client: mqtt.Client) -> None:
        self._client = client
        self._answers: dict[int, ReasonCode | None] = {}
        # An answer can be faster than publish(): those that came while it ran, and how many threads are in it.
        self._early: dict[int, ReasonCode] = {}
        self._publishing = 0
        self._changed = threading.Condition()
        self._receive_maximum = IN_FLIGHT
        self._in_flight = 0
        # What the broker takes at most, in bytes (MQTT 5.0, 3.2.2.3.6); None: anything.
        self.maximum_packet_size: int | None = None
        client.on_publish = self._on_publish

    def connected(self, properties: Properties) -> None:
        """Takes over what a CONNACK says."""
        with self._changed:
            self.maximum_packet_size = getattr(properties, "MaximumPacketSize", None)
            self._receive_maximum = min(IN_FLIGHT, getattr(properties, "ReceiveMaximum", IN_FLIGHT))

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
        with self._changed:
            if not self._changed.wait_for(lambda: self._in_flight < self._receive_maximum, timeout_seconds):
                raise PublishError(f"the broker did not answer others within {timeout_seconds:g} s", "timeout")
            self._in_flight += 1
            self._publishing += 1
        try:
            return self._publish(topic, payload, properties, timeout_seconds, retain)
        finally:
            with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()

    def _publish(
        self, topic: str, payload: bytes | str, properties: Properties | None, timeout_seconds: float, retain: bool
    ) -> None:
        try:
            # Without the lock: the network thread holds one of paho's, and waits for this one.
            info = self._client.publish(topic, payload, 1, retain, properties)
            with self._changed:
                self._answers[info.mid] = self._early.pop(info.mid, None)
        finally:
            with self._changed:
                self._publishing -= 1
                if not self._publishing:
                    self._early.clear()
        with self._changed:
            if info.rc == mqtt.MQTT_ERR_QUEUE_SIZE:
                del self._answers[info.mid]
                raise PublishError("paho's queue is full", info.rc.name)
            self._changed.wait_for(lambda: self._answers[info.mid] is not None, timeout_seconds)
            reason_code = self._answers.pop(info.mid)
        if reason_code is None:
            raise PublishError(f"the broker did not answer within {timeout_seconds:g} s", "timeout")
        if reason_code.is_failure:
            raise PublishError(f"the broker refuses it: {reason_code}", str(reason_code))

    def _on_publish(self, client: mqtt.Client, userdata: Any, mid: int, reason_code: ReasonCode, *_: object) -> None:
        with self._changed:
            if mid in self._answers:
                self._answers[mid] = reason_code
                self._changed.notify_all()
            elif self._publishing:
                self._early[mid] = reason_code
