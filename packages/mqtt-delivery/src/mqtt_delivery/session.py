"""The network side: it connects, subscribes and hands over, so it is never late to answer the broker."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

log = logging.getLogger(__name__)

# Without a word from the broker for so long a consumer asks it for one; then it is not healthy; and then it has lost
# more than a connection.
ASK_SECONDS = 5.0
UNHEALTHY_SECONDS = 15.0
SILENCE_SECONDS = 30.0
# So many connections in a row that a malformed packet has ended: the broker sends it again and again.
MALFORMED_AGAIN = 3


class Heartbeat:
    """Hears whether the broker answers; paho's ``is_connected()`` stays True when its network thread has died.

    It asks by an UNSUBSCRIBE from a filter that nobody has: every broker answers that (MQTT 5.0, 3.10.4), the network
    thread has to take the answer, and a broker answers it after all that it was sent before.

    Args:
        client: Its ``on_unsubscribe`` is taken.
    """

    def __init__(self, client: mqtt.Client) -> None:
        self._client = client
        self._filter = f"mqtt-delivery/{uuid4().hex}"
        self._asked: int | None = None
        self._changed = threading.Condition()
        self._heard = time.monotonic()
        client.on_unsubscribe = self._on_unsubscribe

    @property
    def silent_seconds(self) -> float:
        """For how long nothing was heard."""
        return time.monotonic() - self._heard

    def heard(self) -> None:
        """Notes that something came."""
        self._heard = time.monotonic()

    def ask(self) -> bool:
        """Asks the broker for an answer; False without a connection."""
        with self._changed:
            result, self._asked = self._client.unsubscribe(self._filter)
        return result == mqtt.MQTT_ERR_SUCCESS

    def round_trip(self, timeout_seconds: float) -> bool:
        """Whether the broker has answered in time, and so has taken all that was sent before."""
        if not self.ask():
            return False
        with self._changed:
            return self._changed.wait_for(lambda: self._asked is None, timeout_seconds)

    def _on_unsubscribe(self, client: mqtt.Client, userdata: Any, mid: int, *_: object) -> None:
        self.heard()
        with self._changed:
            if mid == self._asked:
                self._asked = None
                self._changed.notify_all()


class MalformedPackets(logging.Logger):
    """Hears which packets paho finds malformed: it ends the connection, and says why in its log alone."""

    def __init__(self) -> None:
        super().__init__(__name__)
        self._reason: str | None = None
        self._in_a_row = 0
        self._last = 0.0

    def log(self, level: int, msg: object, *args: object, **_: Any) -> None:
        """Takes a line of paho's."""
        if str(msg).startswith("Received malformed packet"):
            self._reason = str(args[0])

    @property
    def repeated(self) -> bool:
        """Whether one connection after the other ends like this."""
        return self._in_a_row >= MALFORMED_AGAIN and time.monotonic() - self._last < SILENCE_SECONDS

    def disconnected(self) -> str | None:
        """What was malformed, if the connection has ended for that."""
        reason, self._reason = self._reason, None
        now = time.monotonic()
        if reason is None or now - self._last > SILENCE_SECONDS:
            self._in_a_row = 0
        if reason is not None:
            self._in_a_row, self._last = self._in_a_row + 1, now
            if self._in_a_row in (1, MALFORMED_AGAIN):
                again = f", {self._in_a_row} times in a row: nothing gets through" if self._in_a_row > 1 else ""
                log.error("disconnected: the broker sent a malformed packet%s: %s", again, reason)
        return reason


class Session:
    """One session at the broker.

    Args:
        client: Its callbacks are taken.
        filters: What it subscribes to, and what the session may still be subscribed to and should no longer be.
        receive_maximum: How many messages the broker sends ahead of their acknowledgements.
        maximum_packet_size: The largest packet that the broker sends, in bytes.
        expiry_seconds: How long the broker keeps what comes while nobody is connected.
        retain_handling: Retain Handling of the subscription (MQTT 5.0, 3.8.3.1).
        dropped_topic: Where the broker counts what it drops; empty: it is not asked.
        arrived: Called with each message.
        connection_lost: Called when the connection is lost.
        session_lost: Called when the broker does not have the session that it should (True), or will not keep it for so
            long (False), and with what happened.
        malformed: Called when a malformed packet has ended the connection.
        connected: Called with the properties of each CONNACK.
    """

    def __init__(
        self,
        client: mqtt.Client,
        filters: tuple[str, str],
        receive_maximum: int,
        maximum_packet_size: int,
        expiry_seconds: int,
        retain_handling: int,
        dropped_topic: str,
        *,
        arrived: Callable[[mqtt.MQTTMessage], object],
        connection_lost: Callable[[], object],
        session_lost: Callable[[str, bool], object],
        malformed: Callable[[], object],
        connected: Callable[[Properties], object],
    ) -> None:
        self._client = client
        self._filter, self._former_filter = filters
        self._receive_maximum = receive_maximum
        self._maximum_packet_size = maximum_packet_size
        self._expiry_seconds = expiry_seconds
        self._options = SubscribeOptions(qos=1, retainHandling=retain_handling)
        self._dropped_topic = dropped_topic
        self._arrived = arrived
        self._connection_lost = connection_lost
        self._session_lost = session_lost
        self._malformed = malformed
        self._connected = connected
        self._heartbeat = Heartbeat(client)
        self._malformed_packets = MalformedPackets()
        self._subscribed = False
        self._had_session = False
        self._kept_seconds = expiry_seconds
        self._dropped: int | None = None
        self._accepting = True
        self._leaving = False
        self._nothing_to_leave = False
        self._connections = 0
        self._arrivals = 0
        client.manual_ack_set(True)
        client.enable_logger(self._malformed_packets)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message

    @property
    def name(self) -> str:
        """The client id."""
        return self._client._client_id.decode()  # pyright: ignore[reportPrivateUsage] (it has no public name)

    @property
    def healthy(self) -> bool:
        """Subscribed, the broker was heard of lately, and what it sends can be read."""
        if self._heartbeat.silent_seconds > ASK_SECONDS and self._client.is_connected():
            self._heartbeat.ask()
        heard = self._heartbeat.silent_seconds < UNHEALTHY_SECONDS
        return self._subscribed and heard and not self._malformed_packets.repeated

    @property
    def stalled(self) -> bool:
        """Whether nothing comes for too long although the connection stands."""
        return self._client.is_connected() and self._heartbeat.silent_seconds > SILENCE_SECONDS

    def connect(self, host: str, port: int, keepalive_seconds: int) -> None:
        """Connects in the background, to a session that outlives the connection."""
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = self._expiry_seconds
        properties.ReceiveMaximum = self._receive_maximum
        properties.MaximumPacketSize = self._maximum_packet_size
        self._client.connect_async(host, port, keepalive_seconds, clean_start=False, properties=properties)
        self._client.loop_start()

    def leave(self, host: str, port: int, keepalive_seconds: int) -> None:
        """Connects to a session to empty it: nothing new is to come."""
        self._leaving = True
        self.connect(host, port, keepalive_seconds)

    def is_empty(self, unacknowledged: Callable[[], int]) -> bool:
        """Whether nothing is left in a session that is to be left."""
        if self._nothing_to_leave:
            return True
        if not self._subscribed or unacknowledged():
            return False
        # A broker sends what it holds before it answers what came after the acknowledgements.
        before = self._connections, self._arrivals
        answered = self._heartbeat.round_trip(2.0) and self._heartbeat.round_trip(2.0)
        return answered and before == (self._connections, self._arrivals) and not unacknowledged()

    def stop_accepting(self) -> None:
        """Takes no more messages: they are not acknowledged, so the broker keeps them for the next start."""
        self._accepting = False

    def disconnect(self, end_session: bool = False) -> None:
        """Ends the connection when the broker has taken every acknowledgement."""
        if self._client.is_connected():
            self._heartbeat.round_trip(1.0)
        properties = Properties(PacketTypes.DISCONNECT)
        if end_session:
            properties.SessionExpiryInterval = 0
        self._client.disconnect(properties=properties)
        self._client.loop_stop()

    def _on_connect(self, client: mqtt.Client, userdata: Any, flags: Any, reason_code: Any, properties: Any) -> None:
        if reason_code.is_failure:
            log.error("the broker refuses the connection: %s", reason_code)
            return
        self._connections += 1
        self._heartbeat.heard()
        self._look_at_session(flags.session_present, properties)
        self._connected(properties)
        if self._leaving:
            self._unsubscribe(client, flags.session_present)
            return
        subscriptions = [(self._filter, self._options)]
        if self._dropped_topic:
            subscriptions.append((self._dropped_topic, SubscribeOptions(qos=0)))
        client.subscribe(subscriptions)
        client.unsubscribe(self._former_filter)

    def _look_at_session(self, present: bool, properties: Properties) -> None:
        if self._had_session and not present:
            self._session_lost("the broker has lost the session, and with it all that it kept for this consumer", True)
        self._had_session = True
        kept = getattr(properties, "SessionExpiryInterval", self._expiry_seconds)
        if kept < self._kept_seconds:
            self._session_lost(f"the broker keeps the session for {kept} s, not for {self._expiry_seconds} s", False)
        self._kept_seconds = kept

    def _unsubscribe(self, client: mqtt.Client, session_present: bool) -> None:
        if not session_present:
            self._nothing_to_leave = True
            return
        log.info("unsubscribing; processing what the session still holds")
        client.unsubscribe([self._filter, self._former_filter])
        self._subscribed = True

    def _on_subscribe(self, client: mqtt.Client, userdata: Any, mid: int, reason_codes: Any, properties: Any) -> None:
        self._subscribed = not reason_codes[0].is_failure
        if self._subscribed:
            log.info("subscribed to %s", self._filter)
        else:
            log.error("the broker refuses the subscription to %s: %s", self._filter, reason_codes[0])

    def _on_disconnect(self, *_: object) -> None:
        self._subscribed = False
        self._connections += 1
        self._heartbeat.heard()
        if self._malformed_packets.disconnected() is not None:
            self._malformed()
        self._connection_lost()

    def _on_message(self, client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        self._heartbeat.heard()
        if self._dropped_topic and message._topic == self._dropped_topic.encode():  # pyright: ignore[reportPrivateUsage] (`topic` raises where it is no UTF-8)
            self._on_dropped(bytes(message.payload))
        elif self._accepting:
            self._arrivals += 1
            self._arrived(message)

    def _on_dropped(self, payload: bytes) -> None:
        if not payload.isdigit():
            return
        count = int(payload)
        if self._dropped is not None and count > self._dropped:
            log.error("the broker has dropped %d messages: a queue was full", count - self._dropped)
        self._dropped = count
