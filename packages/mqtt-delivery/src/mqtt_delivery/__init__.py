"""At-least-once delivery on paho-mqtt: a consumer that loses nothing, a publisher that keeps what it cannot send."""

from mqtt_delivery.answers import check_answer
from mqtt_delivery.consumer import Consumer
from mqtt_delivery.message import Message, Reject, Retry
from mqtt_delivery.publisher import Publisher
from mqtt_delivery.publishing import PublishError
from mqtt_delivery.version import __version__

__all__ = ["Consumer", "Message", "PublishError", "Publisher", "Reject", "Retry", "__version__", "check_answer"]
