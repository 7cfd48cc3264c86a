"""Acknowledgements after the work is done, in the order of arrival, as MQTT 5.0 wants (4.6.0-2)."""

import threading
from collections import deque
from dataclasses import dataclass

import paho.mqtt.client as mqtt


@dataclass(eq=False)
class Delivery:
    """A message that the broker waits to hear of."""

    message: mqtt.MQTTMessage
    done: bool = False

    def is_of(self, message: mqtt.MQTTMessage) -> bool:
        """Whether the broker has sent this message again."""
        return (self.message.topic, self.message.payload) == (message.topic, message.payload)


class Acknowledgements:
    """Knows which messages are still to be acknowledged on this connection, and which came on the one before."""

    def __init__(self, client: mqtt.Client) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._sending = False
        self._arrived: deque[Delivery] = deque()
        self._earlier: dict[int, Delivery] = {}

    @property
    def complete(self) -> bool:
        """Whether all that came on this connection is acknowledged."""
        with self._lock:
            return not self._arrived and not self._sending

    def arrived(self, message: mqtt.MQTTMessage) -> Delivery | None:
        """Takes a message in; returns its delivery, or None if it is worked on since an earlier connection."""
        with self._lock:
            known = self._earlier.pop(message.mid, None) if message.dup else None
            again = known is not None and known.is_of(message)
            delivery = known if known is not None and again else Delivery(message)
            if message.qos > 0:
                self._arrived.append(delivery)
        # It may be done already: then the broker did not hear of it.
        self._send()
        return None if again else delivery

    def done(self, delivery: Delivery) -> None:
        """Acknowledges a message as soon as all that came before it are done."""
        delivery.done = True
        self._send()

    def connection_lost(self) -> None:
        """Sets aside what was not acknowledged: in a session that goes on, the broker sends it again."""
        with self._lock:
            self._earlier |= {delivery.message.mid: delivery for delivery in self._arrived}
            self._arrived.clear()

    def _send(self) -> None:
        # One thread sends at a time, which keeps the order; and without the lock, since paho may call back from ack().
        while (delivery := self._next()) is not None:
            self._client.ack(delivery.message.mid, delivery.message.qos)
            with self._lock:
                self._sending = False

    def _next(self) -> Delivery | None:
        with self._lock:
            if self._sending or not self._arrived or not self._arrived[0].done:
                return None
            self._sending = True
            return self._arrived.popleft()
