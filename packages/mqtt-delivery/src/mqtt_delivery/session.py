"""The network side: it only connects, subscribes and hands messages over, so it always answers the broker in time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from mqtt_delivery.acknowledgements import Acknowledgements, Delivery
from mqtt_delivery.bounds import Bounds
from mqtt_delivery.connection import Connection, reason
from mqtt_delivery.heartbeat import SILENCE_SECONDS, UNHEALTHY_SECONDS, Heartbeat
from mqtt_delivery.publishing import AcknowledgedPublishes
from mqtt_delivery.terms import QOS, Terms

log = logging.getLogger(__name__)

# Retain Handling (MQTT 5.0, 3.8.3.1).
NO_RETAINED = 2
# While a session is being emptied: give up if nothing comes for this time.
LEAVE_SECONDS = 20.0


class LeaveError(Exception):
    """It is unknown whether the session is empty."""


class Session:
    """One session at the broker.

    Args:
        client: The client; the session sets its callbacks.
        filters: The filter to subscribe to, and a former one to unsubscribe from.
        bounds: The limits to tell the broker.
        expiry_seconds: How long the broker keeps messages while the client is not connected.
        retain_handling: Retain Handling of the subscription (MQTT 5.0, 3.8.3.1).
        heartbeat: Whether it sends itself messages when no others come.
        publishes: Publishes the heartbeat.
        acknowledgements: Tracks the messages to acknowledge.
        arrived: Called with each message.
        session_lost: Called with what happened, and True if the broker has lost the session, False if the broker keeps
            it for a shorter time.
        malformed: Called when a malformed packet has ended the connection.
    """

    def __init__(
        self,
        client: mqtt.Client,
        filters: tuple[str, str],
        bounds: Bounds,
        expiry_seconds: int,
        retain_handling: int,
        heartbeat: bool,
        publishes: AcknowledgedPublishes,
        acknowledgements: Acknowledgements,
        *,
        arrived: Callable[[mqtt.MQTTMessage], object],
        session_lost: Callable[[str, bool], object],
        malformed: Callable[[], object],
    ) -> None:
        self._client = client
        self._filter, self._former_filter = filters
        self._bounds = bounds
        self._expiry_seconds = expiry_seconds
        self._retain_handling = retain_handling
        self._mqtt_5 = client.protocol == mqtt.MQTTv5
        # More messages came than may wait: all further ones are ignored, until the broker sends them again.
        self._overflowed = self._said_overflow = False
        self._wants_heartbeat = heartbeat
        self._publishes = publishes
        self._acknowledgements = acknowledgements
        self._arrived = arrived
        self._session_lost = session_lost
        self._malformed = malformed
        self._connection = Connection(client)
        # While a message is not acknowledged, the broker may hold the next one back.
        self._heartbeat = Heartbeat(publishes, heartbeat, lambda: acknowledgements.count > 0)
        self._subscribed = False
        self._contradiction: str | None = None
        self._had_session = False
        self._kept_seconds = expiry_seconds
        self._accepting = True
        self._leaving = False
        self._nothing_to_leave = False
        # Counts the events that make a marker inconclusive: messages and lost connections.
        self._events = 0
        self._marked_after: int | None = None
        self._last_event = time.monotonic()
        # By message id: requests that the broker has not answered yet.
        self._subscribing: dict[int, str] = {}
        self._unsubscribing: dict[int, str] = {}
        self._answered = threading.Condition()
        client.manual_ack_set(True)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_unsubscribe = self._on_unsubscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message

    @property
    def name(self) -> str:
        """The client id."""
        return self._client._client_id.decode()  # pyright: ignore[reportPrivateUsage] (it has no public name)

    @property
    def live(self) -> bool:
        """The network thread makes progress."""
        return self._connection.live

    @property
    def connected(self) -> bool:
        """Connected, and the broker sends packets."""
        return self._connection.connected

    @property
    def delivers(self) -> bool:
        """Subscribed, and messages come that can be read."""
        if self._connection.connected:
            self._heartbeat.beat()
        lately = self._heartbeat.silent_seconds < UNHEALTHY_SECONDS
        return self._subscribed and lately and not self._connection.unreadable

    @property
    def healthy(self) -> bool:
        """``live``, ``connected`` and ``delivers``."""
        return self.live and self.connected and self.delivers

    @property
    def stalled(self) -> str | None:
        """Why only a restart helps: what an open connection has lacked for too long, or will always lack; else None."""
        if self._contradiction:
            return self._contradiction
        if not self._connection.live:
            return "the network thread does not turn"
        if self._client.is_connected() and self._heartbeat.silent_seconds > SILENCE_SECONDS:
            return f"what is published on {self._heartbeat.topic} does not come"
        return None

    def connect(self, host: str, port: int, keepalive_seconds: int) -> None:
        """Connects in the background, with a session that outlives the connection."""
        if self._mqtt_5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = self._expiry_seconds
            properties.ReceiveMaximum = self._bounds.receive_maximum
            properties.MaximumPacketSize = self._bounds.packet_bytes
            self._client.connect_async(host, port, keepalive_seconds, clean_start=False, properties=properties)
        else:
            self._client.connect_async(host, port, keepalive_seconds)
        self._client.loop_start()

    def leave(self, host: str, port: int, keepalive_seconds: int) -> None:
        """Connects to the session to empty it; no new messages are taken into it."""
        self._leaving = True
        self.connect(host, port, keepalive_seconds)

    def is_empty(self) -> bool:
        """Whether the session is empty after ``leave``.

        The client publishes a marker to itself on the heartbeat's topic, with the QoS of the messages, so that it waits
        in the same queue. The broker sends older messages before the marker.

        Raises:
            LeaveError: It is unknown whether the session is empty.
        """
        if self._nothing_to_leave:
            return True
        if self._heartbeat.refused:
            raise LeaveError(f"the broker refuses {self._heartbeat.topic}")
        if self._acknowledgements.count:
            self._last_event = time.monotonic()
            return False
        if time.monotonic() - self._last_event > LEAVE_SECONDS:
            what = f"{self._heartbeat.topic} did not come back" if self._subscribed else "the broker did not answer"
            raise LeaveError(f"{what} within {LEAVE_SECONDS:g} s")
        if not self._subscribed or self._unsubscribing or self._overflowed:
            return False
        if self._marked_after is not None and not self._heartbeat.is_back:
            return False
        if self._marked_after == self._events:
            return True
        self._marked_after = self._events
        self._heartbeat.send()
        return False

    def stop_accepting(self) -> None:
        """Ignores further messages: they are not acknowledged, so the broker keeps them for the next start."""
        self._accepting = False

    def disconnect(self, end_session: bool = False) -> None:
        """Ends the connection when the broker has every acknowledgement."""
        if self._client.is_connected():
            # The broker answers this after it has read everything sent before.
            self._unsubscribe(self._former_filter)
            with self._answered:
                self._answered.wait_for(lambda: not self._unsubscribing, 1.0)
        properties = None
        if end_session and self._mqtt_5:
            properties = Properties(PacketTypes.DISCONNECT)
            properties.SessionExpiryInterval = 0
        self._client.disconnect(properties=properties)
        self._client.loop_stop()
        if end_session and not self._mqtt_5:
            self._end_by_a_clean_session()

    def _end_by_a_clean_session(self) -> None:
        """Ends the session as MQTT 3.1.1 requires (3.1.2.4): with a clean session of the same client id."""
        taken = threading.Event()
        self._client._clean_session = True  # pyright: ignore[reportPrivateUsage] (it has no public name)
        self._client.on_connect = lambda *_: taken.set()  # pyright: ignore[reportUnknownLambdaType] (none is used)
        self._client.reconnect()
        self._client.loop_start()
        if not taken.wait(LEAVE_SECONDS):
            log.error("the broker did not answer: it keeps the session of %s, with nothing in it", self.name)
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, client: mqtt.Client, userdata: Any, flags: Any, reason_code: Any, properties: Any) -> None:
        if not self._connection.opened(reason_code, properties):
            return
        self._look_at_session(flags.session_present, properties)
        terms = Terms.of(properties)
        self._publishes.connected(terms)
        # If the client id was empty, the broker assigned one. It is needed to find the session again (MQTT 5.0,
        # 3.2.2.3.7).
        if assigned := getattr(properties, "AssignedClientIdentifier", None):
            client._client_id = assigned.encode()  # pyright: ignore[reportPrivateUsage] (there is no other way)
        self._heartbeat.connected(self.name)
        if self._leaving:
            self._leave(flags.session_present)
            return
        self._contradiction = terms.against_subscribing(self._filter)
        if self._contradiction:
            log.error("nothing is subscribed to: %s", self._contradiction)
            return
        # One packet for each filter, so that one can fail without the others.
        self._subscribe(self._filter, QOS)
        if self._wants_heartbeat:
            self._subscribe(self._heartbeat.topic, 0)
        if terms.shared_subscriptions:
            self._unsubscribe(self._former_filter)

    def _look_at_session(self, present: bool, properties: Properties) -> None:
        if self._had_session and not present:
            self._session_lost("the broker has lost the session, and with it all that it kept for this consumer", True)
        self._had_session = True
        kept = getattr(properties, "SessionExpiryInterval", self._expiry_seconds)
        if kept < self._kept_seconds:
            self._session_lost(f"the broker keeps the session for {kept} s, not for {self._expiry_seconds} s", False)
        self._kept_seconds = kept

    def _leave(self, session_present: bool) -> None:
        if not session_present:
            self._nothing_to_leave = True
            return
        log.info("unsubscribing; processing what the session still holds")
        self._marked_after = None
        self._subscribe(self._heartbeat.topic, QOS)
        self._unsubscribe(self._filter)
        self._unsubscribe(self._former_filter)

    def _subscribe(self, topic_filter: str, qos: int) -> None:
        if self._mqtt_5:
            options = SubscribeOptions(qos=qos, retainHandling=self._retain_handling)
            _, mid = self._client.subscribe(topic_filter, options=options)
        else:
            _, mid = self._client.subscribe(topic_filter, qos)
        if mid is not None:
            self._subscribing[mid] = topic_filter

    def _unsubscribe(self, topic_filter: str) -> None:
        with self._answered:
            _, mid = self._client.unsubscribe(topic_filter)
            if mid is not None:
                self._unsubscribing[mid] = topic_filter

    def _on_subscribe(self, client: mqtt.Client, userdata: Any, mid: int, reason_codes: Any, properties: Any) -> None:
        topic_filter = self._subscribing.pop(mid, "")
        # There is one reason code for each filter of the packet, so exactly one.
        for reason_code in reason_codes:
            refusal = f"the broker refuses the subscription to {topic_filter}: {reason(reason_code, properties)}"
            if topic_filter == self._heartbeat.topic:
                self._subscribed |= self._leaving and not reason_code.is_failure
                if reason_code.is_failure:
                    self._heartbeat.refuse(refusal)
            elif reason_code.is_failure:
                log.error("%s", refusal)
            else:
                self._subscribed = True
                log.info("subscribed to %s", topic_filter)
                if reason_code.value < QOS:
                    log.error("the broker grants %s no more than QoS 0: what gets lost is not sent again", topic_filter)

    def _on_unsubscribe(self, client: mqtt.Client, userdata: Any, mid: int, reason_codes: Any, properties: Any) -> None:
        with self._answered:
            topic_filter = self._unsubscribing.pop(mid, "")
            self._answered.notify_all()
        for reason_code in reason_codes:
            if reason_code.is_failure:
                log.error("the broker does not unsubscribe %s: %s", topic_filter, reason(reason_code, properties))
        if self._has_room_again():
            self._connection.cut()

    def _on_disconnect(self, client: mqtt.Client, userdata: Any, flags: Any, reason_code: Any, properties: Any) -> None:
        self._subscribed = False
        self._note_event()
        self._subscribing.clear()
        with self._answered:
            self._unsubscribing.clear()
            self._answered.notify_all()
        self._heartbeat.came()
        self._overflowed = False
        if self._connection.ended(flags, reason_code, properties):
            self._malformed()
        self._acknowledgements.connection_lost()

    def _on_message(self, client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        topic = message._topic.decode("utf-8", "replace")  # pyright: ignore[reportPrivateUsage] (`topic` raises if it is not UTF-8)
        if topic == self._heartbeat.topic:
            self._heartbeat.came(bytes(message.payload))
            self._let_pass(message, topic)
        elif self._is_retained(message):
            self._let_pass(message, topic)
        elif self._accepting and not self._is_too_much():
            self._heartbeat.came()
            self._note_event()
            self._arrived(message)

    def _let_pass(self, message: mqtt.MQTTMessage, topic: str) -> None:
        """Acknowledges a message that is not for the handler, in its turn."""
        delivery = Delivery(message, topic)
        if self._acknowledgements.arrived(delivery):
            self._acknowledgements.done(delivery)

    def _is_retained(self, message: mqtt.MQTTMessage) -> bool:
        """Whether this is an unwanted retained message; MQTT 3.1.1 cannot tell the broker not to send these."""
        return not self._mqtt_5 and message.retain and self._retain_handling == NO_RETAINED

    def _is_too_much(self) -> bool:
        if not self._overflowed and self._acknowledgements.held_bytes > self._bounds.held_bytes:
            self._overflowed = True
            if not self._said_overflow:
                log.warning("over %d MiB wait: the broker gets to send the rest again", self._bounds.held_bytes >> 20)
                self._said_overflow = True
        return self._overflowed

    def _has_room_again(self) -> bool:
        return self._overflowed and self._acknowledgements.held_bytes <= self._bounds.held_bytes // 4

    def acknowledged(self) -> None:
        """Once there is room again, makes the broker send the ignored messages again."""
        if self._has_room_again() and not self._unsubscribing:
            # The broker answers this after it has read the acknowledgements.
            self._unsubscribe(self._former_filter)

    def _note_event(self) -> None:
        self._events += 1
        self._last_event = time.monotonic()
