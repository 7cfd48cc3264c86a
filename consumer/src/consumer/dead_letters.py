"""Where readings go that cannot be processed: a topic of their own, for people to look at."""

import logging
import threading

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

log = logging.getLogger(__name__)


def topic_of(message: mqtt.MQTTMessage) -> str:
    """The dead-letter topic of a message."""
    return f"dead-letter/{message.topic}"


class DeadLetters:
    """Publishes to the dead-letter topics and waits until the broker has them."""

    def __init__(self, client: mqtt.Client, stop: threading.Event) -> None:
        self._client = client
        self._stop = stop
        self._acknowledged: dict[int, ReasonCode] = {}
        self._changed = threading.Condition()
        client.on_publish = self._on_publish

    def put(self, message: mqtt.MQTTMessage, reason: str) -> bool:
        """Tries until the broker has taken the message; False if told to stop before.

        The payload and the user properties stay as they were, so the message keeps its trace context.
        """
        while not self._stop.is_set():
            if self._publish(message, reason):
                return True
            self._stop.wait(1.0)
        return False

    def _publish(self, message: mqtt.MQTTMessage, reason: str) -> bool:
        properties = Properties(PacketTypes.PUBLISH)
        # A property may have 65,535 bytes at most.
        properties.UserProperty = [
            *getattr(message.properties, "UserProperty", []),
            ("dead-letter-reason", reason[:1000]),
        ]
        info = self._client.publish(topic_of(message), message.payload, qos=1, properties=properties)
        with self._changed:
            arrived = self._changed.wait_for(lambda: info.mid in self._acknowledged or self._stop.is_set(), timeout=30)
            reason_code = self._acknowledged.pop(info.mid, None)
        if not arrived or reason_code is None:
            log.warning("the broker does not acknowledge a dead letter")
            return False
        if reason_code.is_failure:
            log.error("the broker refuses a dead letter on %s: %s", topic_of(message), reason_code)
            return False
        return True

    def _on_publish(self, client: mqtt.Client, userdata: None, mid: int, reason_code: ReasonCode, *_: object) -> None:
        with self._changed:
            self._acknowledged[mid] = reason_code
            self._changed.notify_all()
