"""Limits for the size of messages, so that one device cannot take memory or time from the others."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from paho.mqtt.client import MQTTMessage

from mqtt_delivery.acknowledgements import Delivery
from mqtt_delivery.dead_letters import DeadLetter, shortened_topic

# Memory overhead of a message, and of one user property, on top of the content; measured roughly.
MESSAGE_BYTES = 2048
USER_PROPERTY_BYTES = 200
# The fewest bytes that one user property takes in a packet (MQTT 5.0, 2.2.2.2).
PACKED_USER_PROPERTY_BYTES = 5
# A smaller limit is not worth a reconnect.
LEAST_HELD_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Bounds:
    """The limits that a message must keep to.

    Attributes:
        receive_maximum: How many messages the broker sends ahead of their acknowledgements.
        packet_bytes: Maximum length of its packet.
        topic_bytes: Maximum length of its topic, in bytes of UTF-8.
        user_properties: Maximum number of its user properties.
    """

    receive_maximum: int
    packet_bytes: int
    topic_bytes: int
    user_properties: int

    @cached_property
    def held_bytes(self) -> int:
        """The memory in bytes that waiting messages may take: what a broker that respects Receive Maximum can fill."""
        user_properties = min(self.user_properties, self.packet_bytes // PACKED_USER_PROPERTY_BYTES)
        largest = MESSAGE_BYTES + self.packet_bytes + user_properties * USER_PROPERTY_BYTES
        return max(LEAST_HELD_BYTES, self.receive_maximum * largest)

    def bytes_of(self, message: MQTTMessage) -> int:
        """Approximate memory of a message in bytes, after ``refusal`` has seen it."""
        fields: list[tuple[str, str]] = getattr(message.properties, "UserProperty", [])
        content = sum(len(name) + len(value) + USER_PROPERTY_BYTES for name, value in fields)
        return MESSAGE_BYTES + len(message._topic) + len(message.payload) + content  # pyright: ignore[reportPrivateUsage] (`topic` raises if it is not UTF-8)

    def refusal(self, message: MQTTMessage) -> DeadLetter | None:
        """Why a message becomes a dead letter at once; None if it keeps to the limits. Drops excess user properties."""
        fields: list[tuple[str, str]] = getattr(message.properties, "UserProperty", [])
        count = len(fields)
        # A thousand of them take ten times the memory of their packet, as long as the message waits.
        del fields[self.user_properties :]
        length = len(message._topic)  # pyright: ignore[reportPrivateUsage] (`topic` raises if it is not UTF-8)
        if length > self.topic_bytes:
            return DeadLetter(
                "rejected", f"its topic has {length} bytes, more than {self.topic_bytes}", "topic_too_long"
            )
        if count > self.user_properties:
            reason = f"it has {count} user properties, more than {self.user_properties}"
            return DeadLetter("rejected", reason, "too_many_user_properties")
        return None

    def traced(self, delivery: Delivery) -> MQTTMessage:
        """The message as its span shows it: a topic that is too long is shortened."""
        message = delivery.message
        topic = message._topic  # pyright: ignore[reportPrivateUsage] (as above)
        if len(topic) <= self.topic_bytes:
            return message
        shown = MQTTMessage(message.mid, shortened_topic(topic.decode("utf-8", "replace")).encode())
        shown.qos, shown.payload, shown.properties = message.qos, message.payload, message.properties
        return shown
