"""What the broker has not acknowledged yet."""

import threading

import paho.mqtt.client as mqtt


class Outbox:
    """Publishes through a client and knows how many messages still wait for the broker."""

    def __init__(self, client: mqtt.Client) -> None:
        self._client = client
        self._waiting = 0
        self._changed = threading.Condition()
        client.on_publish = self._on_publish

    def publish(self, topic: str, payload: str) -> mqtt.MQTTMessageInfo:
        """Hands a message to the client, which keeps it until the broker has acknowledged it (QoS 1)."""
        # Counted first: the acknowledgement can arrive before publish() returns.
        self._count(1)
        info = self._client.publish(topic, payload, qos=1)
        if info.rc == mqtt.MQTT_ERR_QUEUE_SIZE:
            self._count(-1)
        return info

    def wait_empty(self, timeout_seconds: float) -> bool:
        """Waits until nothing waits for the broker; False if that took too long."""
        with self._changed:
            return self._changed.wait_for(lambda: self._waiting == 0, timeout_seconds)

    def _on_publish(self, *_: object) -> None:
        self._count(-1)

    def _count(self, change: int) -> None:
        with self._changed:
            self._waiting += change
            self._changed.notify_all()
