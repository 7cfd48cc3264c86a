"""Publishes messages that cannot be processed to a topic of their own, for people to look at."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from mqtt_delivery.publishing import AcknowledgedPublishes, PublishError

log = logging.getLogger(__name__)

REASON = "dead-letter-reason"
ORIGINAL_TOPIC = "dead-letter-topic"
# The limit of MQTT (MQTT 5.0, 1.5.4).
MAXIMUM_TOPIC_BYTES = 65_535
# At most this much of a text from outside goes into a log line.
SHORTENED_BYTES = 200
# A topic that is too long keeps this much of each level, and this many levels.
SHORTENED_LEVEL_BYTES = 64
SHORTENED_LEVELS = 10
MAXIMUM_REASON_CHARACTERS = 1000
TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class DeadLetter:
    """Why a message becomes a dead letter.

    Attributes:
        cause: ``rejected``, ``retries_exhausted`` or ``gave_way``.
        reason: The reason, for people.
        error_type: ``error.type`` of the last attempt.
    """

    cause: str
    reason: str
    error_type: str


class DeadLetters:
    """Publishes to the dead-letter topics and waits until the broker has them.

    Args:
        publishes: What to publish through.
        template: The topic of dead letters; ``{topic}`` in it stands for the topic of the message.
        topic_bytes: A longer topic is shortened.
    """

    def __init__(self, publishes: AcknowledgedPublishes, template: str, topic_bytes: int) -> None:
        self._publishes = publishes
        self._template = template
        self._topic_bytes = topic_bytes

    def topic_of(self, topic: str) -> str:
        """The dead-letter topic of a topic."""
        dead = self._template.replace("{topic}", topic)
        if len(topic.encode()) <= self._topic_bytes and len(dead.encode()) <= MAXIMUM_TOPIC_BYTES:
            return dead
        return self._template.replace("{topic}", shortened_topic(topic))

    def put(self, message: mqtt.MQTTMessage, topic: str, reason: str) -> bool:
        """Publishes a message as a dead letter; True if the broker has it.

        The payload and the user properties stay as they were, so the message keeps its trace context. If it is too
        large for the broker, it goes without both, and its reason says so.
        """
        dead = self.topic_of(topic)
        reason = encodable(reason)[:MAXIMUM_REASON_CHARACTERS]
        user_properties = list(getattr(message.properties, "UserProperty", []))
        if dead != self._template.replace("{topic}", topic):
            user_properties.append((ORIGINAL_TOPIC, topic))
        payload = bytes(message.payload)
        properties = _properties([*user_properties, (REASON, reason)])
        if not self._publishes.terms.takes(dead, payload, properties):
            reason = f"{reason} (without its {len(payload)} bytes and its properties: too large for the broker)"
            payload, properties = b"", _properties([(REASON, reason)])
        try:
            self._publishes.publish(dead, payload, properties, TIMEOUT_SECONDS)
        except (PublishError, ValueError) as error:
            log.error("the broker has not taken a dead letter on %s: %s", shortened(dead), error)
            return False
        return True


def shortened(text: str, size: int = SHORTENED_BYTES) -> str:
    """The beginning of a text: at most ``size`` bytes of UTF-8."""
    return text.encode()[:size].decode(errors="ignore")


def shortened_topic(topic: str) -> str:
    """A topic with each level shortened, so that it still matches the filters of a broker's ACL."""
    levels = topic.split("/", SHORTENED_LEVELS)[:SHORTENED_LEVELS]
    return "/".join(shortened(level, SHORTENED_LEVEL_BYTES) for level in levels)


def _properties(user_properties: list[tuple[str, str]]) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = user_properties
    return properties


def encodable(text: str) -> str:
    """The text with a question mark for each lone surrogate, which UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode()
