"""What the broker has not taken yet."""

import logging
import threading
import time
from typing import Any

import paho.mqtt.client as mqtt
from opentelemetry import metrics

log = logging.getLogger(__name__)

# A success by its number (MQTT 5.0, 3.4.2.1), and yet the broker has thrown the message away.
NO_MATCHING_SUBSCRIBERS = 0x10
# Enough to catch up, and not so many that a broker without subscribers is flooded.
SENT_AGAIN_AT_ONCE = 100

Message = tuple[str, str]


class Outbox:
    """Publishes through a client without ever waiting for the broker, and keeps a bounded number of messages for it.

    Args:
        client: The client; it keeps what the broker has not acknowledged, and sends it again after a reconnect.
        size: How many messages are kept. What comes then is dropped, counted and said.
    """

    def __init__(self, client: mqtt.Client, size: int) -> None:
        self._client = client
        self._size = size
        self._waiting = 0
        self._changed = threading.Condition()
        self._progress = time.monotonic()
        # By message id: what is under way, and which acknowledgements came before publish() returned.
        self._sent: dict[int, Message] = {}
        self._early: dict[int, int] = {}
        self._unclaimed: list[Message] = []
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
        """How many messages the broker has not taken."""
        with self._changed:
            return self._waiting

    @property
    def stalled_seconds(self) -> float:
        """For how long messages have been waiting without an acknowledgement of any."""
        with self._changed:
            return time.monotonic() - self._progress if self._waiting else 0.0

    def publish(self, topic: str, payload: str) -> None:
        """Hands a message over; it is delivered with QoS 1, as soon as the broker and a subscriber are there."""
        # What the broker threw away is no longer the client's, so the client does not count it against its bound.
        if self._unclaimed and self.waiting >= self._size:
            self._drop()
            return
        # Counted first: the acknowledgement can arrive before publish() returns.
        self._count(1)
        if self._send((topic, payload)):
            self._accept()
        else:
            self._count(-1)
            self._drop()

    def send_again(self) -> None:
        """Sends some of what nobody was subscribed to; to be called now and then."""
        with self._changed:
            unclaimed = self._unclaimed[:SENT_AGAIN_AT_ONCE]
            del self._unclaimed[:SENT_AGAIN_AT_ONCE]
        for message in unclaimed:
            if not self._send(message):
                self._count(-1)
                self._drop()

    def wait_empty(self, timeout_seconds: float) -> bool:
        """Waits until nothing waits for the broker; False if that took too long."""
        deadline = time.monotonic() + timeout_seconds
        while (left := deadline - time.monotonic()) > 0:
            self.send_again()
            with self._changed:
                if self._changed.wait_for(lambda: self._waiting == 0, min(left, 0.5)):
                    return True
        return self.waiting == 0

    def _send(self, message: Message) -> bool:
        info = self._client.publish(*message, qos=1)
        if info.rc == mqtt.MQTT_ERR_QUEUE_SIZE:
            return False
        with self._changed:
            if info.mid in self._early:
                self._acknowledged(message, self._early.pop(info.mid))
            else:
                self._sent[info.mid] = message
        return True

    def _on_publish(self, client: mqtt.Client, userdata: None, mid: int, reason_code: Any, *_: object) -> None:
        if reason_code.is_failure:
            log.error("the broker refuses a reading: %s", reason_code)
        with self._changed:
            if mid in self._sent:
                self._acknowledged(self._sent.pop(mid), reason_code.value)
            else:
                self._early[mid] = reason_code.value

    def _acknowledged(self, message: Message, reason: int) -> None:
        if reason != NO_MATCHING_SUBSCRIBERS:
            self._count(-1)
            return
        if not self._unclaimed:
            log.error("nobody is subscribed to the readings: the broker throws them away; they are sent again")
        self._unclaimed.append(message)

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

    def _count(self, change: int) -> None:
        with self._changed:
            if change < 0 or self._waiting == 0:
                self._progress = time.monotonic()
            self._waiting += change
            self._changed.notify_all()
