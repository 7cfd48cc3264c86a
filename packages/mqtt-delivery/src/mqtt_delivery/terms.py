"""What the broker allows, according to its CONNACK."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from paho.mqtt.properties import Properties

# QoS of the messages in both directions.
QOS = 1
# Size of a packet without topic, payload and properties: the header, the packet id, the fields of a propagator.
OVERHEAD_BYTES = 512


@dataclass(frozen=True)
class Terms:
    """The terms of one connection (MQTT 5.0, 3.2.2.3), with MQTT's defaults for what the broker does not say."""

    receive_maximum: int = 65_535
    maximum_qos: int = 2
    retained_messages: bool = True
    maximum_packet_size: int | None = None
    wildcards: bool = True
    shared_subscriptions: bool = True

    @classmethod
    def of(cls, properties: Properties | None) -> Self:
        """The terms in a CONNACK."""
        return cls(
            receive_maximum=getattr(properties, "ReceiveMaximum", cls.receive_maximum),
            maximum_qos=getattr(properties, "MaximumQoS", cls.maximum_qos),
            retained_messages=bool(getattr(properties, "RetainAvailable", 1)),
            maximum_packet_size=getattr(properties, "MaximumPacketSize", None),
            wildcards=bool(getattr(properties, "WildcardSubscriptionAvailable", 1)),
            shared_subscriptions=bool(getattr(properties, "SharedSubscriptionAvailable", 1)),
        )

    def against_publishing(self) -> str | None:
        """Why at-least-once publishing is impossible; None if it is possible."""
        return None if self.maximum_qos >= QOS else "the broker takes QoS 0 only, by which messages get lost"

    def against_subscribing(self, topic_filter: str) -> str | None:
        """Why this filter cannot be subscribed to at least once; None if it can."""
        if not self.shared_subscriptions and topic_filter.startswith("$share/"):
            return "more than one consumer needs shared subscriptions, which the broker does not have"
        if not self.wildcards and {"+", "#"} & set(topic_filter):
            return f"{topic_filter} has wildcards, which the broker does not take"
        return self.against_publishing()

    def takes(self, topic: str, payload: bytes, properties: Properties | None) -> bool:
        """Whether a message is small enough for the broker."""
        size = len(topic.encode()) + len(payload) + OVERHEAD_BYTES
        if properties is not None:
            size += len(bytes(properties.pack()))  # pyright: ignore[reportUnknownArgumentType] (paho has no types here)
        return self.maximum_packet_size is None or size <= self.maximum_packet_size
