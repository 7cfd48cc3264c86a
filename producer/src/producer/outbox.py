"""What the broker has not acknowledged yet."""

import logging
import threading
import time
from typing import Any

import paho.mqtt.client as mqtt
from opentelemetry import metrics

log = logging.getLogger(__name__)

# A success by its number (MQTT 5.0, 3.4.2.1), and yet the reading is gone.
NO_MATCHING_SUBSCRIBERS = 0x10


class Outbox:
    """Publishes through a client without ever waiting for the broker, and keeps a bounded number of messages for it.

    Args:
        client: The client; it keeps what the broker has not acknowledged, and sends it again after a reconnect.
        size: How many messages it keeps. What comes then is dropped, counted and said.
    """

    def __init__(self, client: mqtt.Client, size: int) -> None:
        self._client = client
        self._waiting = 0
        self._changed = threading.Condition()
        self._progress = time.monotonic()
        self._dropped_in_a_row = 0
        self._dropped_counter = metrics.get_meter("producer").create_counter(
            "producer.readings.dropped", "{reading}", "Readings dropped because the buffer was full"
        )
        self.published = 0
        self.dropped = 0
        client.max_queued_messages_set(size)
        client.on_publish = self._on_publish

    @property
    def waiting(self) -> int:
        """How many messages the broker has not acknowledged."""
        with self._changed:
            return self._waiting

    @property
    def stalled_seconds(self) -> float:
        """For how long messages have been waiting without an acknowledgement of any."""
        with self._changed:
            return time.monotonic() - self._progress if self._waiting else 0.0

    def publish(self, topic: str, payload: str) -> None:
        """Hands a message over; it is delivered with QoS 1, as soon as the broker is there."""
        # Counted first: the acknowledgement can arrive before publish() returns.
        self._count(1)
        info = self._client.publish(topic, payload, qos=1)
        if info.rc == mqtt.MQTT_ERR_QUEUE_SIZE:
            self._count(-1)
            self._drop()
        else:
            self._accept()

    def wait_empty(self, timeout_seconds: float) -> bool:
        """Waits until nothing waits for the broker; False if that took too long."""
        with self._changed:
            return self._changed.wait_for(lambda: self._waiting == 0, timeout_seconds)

    def _accept(self) -> None:
        self.published += 1
        if self._dropped_in_a_row:
            log.warning("the buffer takes readings again; %d were dropped", self._dropped_in_a_row)
            self._dropped_in_a_row = 0

    def _drop(self) -> None:
        if not self._dropped_in_a_row:
            log.error("the buffer is full and the broker away: dropping readings from now on")
        self._dropped_in_a_row += 1
        self.dropped += 1
        self._dropped_counter.add(1)

    def _on_publish(self, client: mqtt.Client, userdata: None, mid: int, reason_code: Any, *_: object) -> None:
        if reason_code.is_failure:
            log.error("the broker refuses a reading: %s", reason_code)
        elif reason_code.value == NO_MATCHING_SUBSCRIBERS:
            log.error("the broker has thrown a reading away: nobody is subscribed to it")
        self._count(-1)

    def _count(self, change: int) -> None:
        with self._changed:
            if change < 0 or self._waiting == 0:
                self._progress = time.monotonic()
            self._waiting += change
            self._changed.notify_all()
