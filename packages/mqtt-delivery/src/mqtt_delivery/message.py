"""The message that a handler gets, and the exceptions by which it rejects or retries one."""

from __future__ import annotations

from dataclasses import dataclass

from paho.mqtt.properties import Properties


@dataclass(frozen=True)
class Message:
    """A received message, at one attempt to process it.

    Attributes:
        topic: Where it was published.
        payload: What was published.
        properties: Its MQTT 5 properties; None if the connection speaks MQTT 3.1.1.
        id: What ``message_id`` returned; None without that function, or if it found none.
        redelivered: Whether the broker has sent it before: it may have been processed already.
        attempt: The number of this attempt in this process, from 1.
    """

    topic: str
    payload: bytes
    properties: Properties | None
    id: str | None = None
    redelivered: bool = False
    attempt: int = 1

    @property
    def user_properties(self) -> list[tuple[str, str]]:
        """Name and value of each user property, in their order (MQTT 5.0, 3.3.2.3.7)."""
        return list(getattr(self.properties, "UserProperty", []))


class Reject(Exception):  # noqa: N818 (an order, not an error of the program)
    """Raised by a handler: this message can never be processed, so it becomes a dead letter at once.

    Args:
        reason: Why, for people; it is sent with the dead letter.
        error_type: ``error.type`` of the process span and of the metrics; ``Reject`` if not given.
    """

    def __init__(self, reason: str, error_type: str = "Reject") -> None:
        super().__init__(reason)
        self.error_type = error_type


class Retry(Exception):  # noqa: N818 (as above)
    """Raised by a handler: try this message again. Any other exception does the same; this one sets ``error.type``.

    Args:
        reason: Why, for people.
        error_type: ``error.type`` of the process span and of the metrics; ``Retry`` if not given.
    """

    def __init__(self, reason: str, error_type: str = "Retry") -> None:
        super().__init__(reason)
        self.error_type = error_type
