"""The network side: it only hands over, so it is never late to answer the broker."""

import logging
import time
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from consumer.acknowledgements import Acknowledgements
from consumer.settings import Settings
from consumer.workers import Workers
from service import KEEPALIVE_SECONDS

log = logging.getLogger(__name__)

# How long the broker keeps readings for a consumer that is away.
SESSION_EXPIRY_SECONDS = 3600
# Mosquitto publishes its uptime every ten seconds: who hears nothing for longer is not healthy, and who hears nothing
# for so long has lost more than a connection.
UPTIME = "$SYS/broker/uptime"
UNHEALTHY_SECONDS = 15.0
SILENCE_SECONDS = 30.0
# Counts what the broker threw away because a queue was full.
DROPPED = "$SYS/broker/publish/messages/dropped"


class Subscription:
    """Subscribes the client and hands what arrives to the workers."""

    def __init__(
        self, settings: Settings, client: mqtt.Client, workers: Workers, acknowledgements: Acknowledgements
    ) -> None:
        self._settings = settings
        self._filter, self._other_filter = settings.filters
        self._client = client
        self._workers = workers
        self._acknowledgements = acknowledgements
        self._subscribed = False
        self._heard = time.monotonic()
        self._dropped: int | None = None
        self._accepting = True
        self._leaving = False
        self._last_delivered = False
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message

    @property
    def healthy(self) -> bool:
        """Subscribed, and the broker was heard of lately; paho's ``is_connected()`` knows neither."""
        return self._subscribed and self._silent_seconds < UNHEALTHY_SECONDS

    @property
    def silent(self) -> bool:
        """Whether nothing at all has come for too long."""
        return self._silent_seconds > SILENCE_SECONDS

    @property
    def _silent_seconds(self) -> float:
        return time.monotonic() - self._heard

    @property
    def left(self) -> bool:
        """Whether nothing is left in a session that was to be left."""
        return self._last_delivered and self._acknowledgements.complete

    def leave(self) -> None:
        """Connects to a session to empty it: nothing new is to come."""
        self._leaving = True
        self.connect()

    def connect(self) -> None:
        """Connects in the background, to a session that outlives the connection."""
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = SESSION_EXPIRY_SECONDS
        # The broker holds back what goes beyond.
        properties.ReceiveMaximum = self._settings.queue_size
        host, port = self._settings.mqtt_host, self._settings.mqtt_port
        self._client.connect_async(host, port, KEEPALIVE_SECONDS, clean_start=False, properties=properties)
        self._client.loop_start()

    def stop_accepting(self) -> None:
        """Takes no more readings: they are not acknowledged, so the broker keeps them for the next start."""
        self._accepting = False

    def _on_connect(self, client: mqtt.Client, userdata: None, flags: Any, reason_code: Any, properties: Any) -> None:
        if reason_code.is_failure:
            log.error("the broker refuses the connection: %s", reason_code)
        else:
            self._heard = time.monotonic()
            if self._leaving:
                self._unsubscribe(client, flags.session_present)
                return
            client.subscribe([(self._filter, 1), (UPTIME, 0), (DROPPED, 0)])
            # With both, each reading would come twice.
            client.unsubscribe(self._other_filter)

    def _unsubscribe(self, client: mqtt.Client, session_present: bool) -> None:
        if not session_present:
            self._last_delivered = True
            return
        log.info("unsubscribing; processing what the session still holds")
        client.unsubscribe([self._filter, self._other_filter])
        # A retained message with QoS 1 queues up behind all that the session holds: when it comes, nothing else will.
        client.subscribe(UPTIME, qos=1)

    def _on_subscribe(self, client: mqtt.Client, userdata: None, mid: int, reason_codes: Any, properties: Any) -> None:
        self._subscribed = not reason_codes[0].is_failure
        if self._leaving:
            return
        if self._subscribed:
            log.info("subscribed to %s", self._filter)
        else:
            log.error("the broker refuses the subscription to %s: %s", self._filter, reason_codes[0])

    def _on_disconnect(self, *_: object) -> None:
        self._subscribed = False
        self._last_delivered = False
        self._heard = time.monotonic()
        self._acknowledgements.connection_lost()

    def _on_message(self, client: mqtt.Client, userdata: None, message: mqtt.MQTTMessage) -> None:
        self._heard = time.monotonic()
        if message.topic == DROPPED:
            self._on_dropped(int(message.payload))
        elif message.topic == UPTIME:
            self._on_uptime(message)
        elif self._accepting:
            self._hand_over(message)

    def _hand_over(self, message: mqtt.MQTTMessage) -> None:
        if (delivery := self._acknowledgements.arrived(message)) is not None:
            self._workers.submit(delivery)

    def _on_uptime(self, message: mqtt.MQTTMessage) -> None:
        if (delivery := self._acknowledgements.arrived(message)) is not None:
            self._acknowledgements.done(delivery)
        if self._leaving and message.retain:
            self._last_delivered = True

    def _on_dropped(self, count: int) -> None:
        if self._dropped is not None and count > self._dropped:
            log.error("the broker has dropped %d messages: a queue was full", count - self._dropped)
        self._dropped = count
