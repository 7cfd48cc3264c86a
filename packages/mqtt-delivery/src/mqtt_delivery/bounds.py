"""How large a message may be: what one device sends must not cost the others memory or time."""

from __future__ import annotations

from dataclasses import dataclass

from paho.mqtt.client import MQTTMessage

from mqtt_delivery.acknowledgements import Delivery
from mqtt_delivery.dead_letters import DeadLetter, shortened_topic


@dataclass(frozen=True)
class Bounds:
    """What a message must keep to.

    Attributes:
        topic_bytes: The length of its topic, in bytes of UTF-8.
        user_properties: How many user properties it has.
    """

    topic_bytes: int
    user_properties: int

    def refusal(self, message: MQTTMessage) -> DeadLetter | None:
        """Why a message is a dead letter at once, with its first user properties; None if it keeps to the bounds."""
        fields: list[tuple[str, str]] = getattr(message.properties, "UserProperty", [])
        count = len(fields)
        # A thousand take ten times the memory of their packet, for as long as the message waits.
        del fields[self.user_properties :]
        length = len(message._topic)  # pyright: ignore[reportPrivateUsage] (`topic` raises where it is no UTF-8)
        if length > self.topic_bytes:
            return DeadLetter(
                "rejected", f"its topic has {length} bytes, more than {self.topic_bytes}", "topic_too_long"
            )
        if count > self.user_properties:
            reason = f"it has {count} user properties, more than {self.user_properties}"
            return DeadLetter("rejected", reason, "too_many_user_properties")
        return None

    def traced(self, delivery: Delivery) -> MQTTMessage:
        """The message as its span shows it: with the topic shortened where it is too long."""
        message = delivery.message
        topic = message._topic  # pyright: ignore[reportPrivateUsage] (likewise)
        if len(topic) <= self.topic_bytes:
            return message
        shown = MQTTMessage(message.mid, shortened_topic(topic.decode("utf-8", "replace")).encode())
        shown.qos, shown.payload, shown.properties = message.qos, message.payload, message.properties
        return shown
