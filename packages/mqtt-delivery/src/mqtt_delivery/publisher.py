"""The publisher: it never waits for the broker, and keeps each message until the broker has acknowledged it."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from opentelemetry.context import attach, detach
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from mqtt_delivery.buffers import Buffer, DiskBuffer, Kept, MemoryBuffer
from mqtt_delivery.connection import Connection, reason
from mqtt_delivery.metrics import CAUSE, meter, observe
from mqtt_delivery.terms import Terms

log = logging.getLogger(__name__)

KEEPALIVE_SECONDS = 20
# On an open connection, no acknowledgement for this long is not an ordinary delay.
STALL_SECONDS = 10.0
# At most this many messages are in flight; fewer if the broker's Receive Maximum is lower (MQTT 5.0, 3.2.2.3.3).
IN_FLIGHT = 100
# Its number says success (MQTT 5.0, 3.4.2.1), but the broker has dropped the message.
NO_MATCHING_SUBSCRIBERS = 0x10
QUOTA_EXCEEDED = 0x97
# Pause before a message that the broker has dropped is sent again.
PAUSE_SECONDS = 1.0
# The largest packet that the broker sends to a publisher: acknowledgements are small (MQTT 5.0, 3.1.2.11.4).
RECEIVED_BYTES = 65_536


class Publisher:
    """Publishes with QoS 1, in order, as soon as the broker and a subscriber are there.

    Args:
        client: A client that is not connected yet. The publisher sets its callbacks.
        size: How many messages are kept for the broker. Further messages are dropped, counted and logged.
        buffer_file: The SQLite database that keeps them, for this process only; kept in memory if not given.

    Raises:
        sqlite3.Error: The file cannot be used, or another process uses it.
        ValueError: ``size`` is less than 1.
    """

    def __init__(self, client: mqtt.Client, size: int = 10_000, buffer_file: str | Path | None = None) -> None:
        if size < 1:
            raise ValueError("size must be 1 or more")
        self._client = client
        self._connection = Connection(client)
        self._size = size
        self._buffer: Buffer = MemoryBuffer() if buffer_file is None else DiskBuffer(Path(buffer_file))
        self._changed = threading.Condition()
        self._progress = time.monotonic()
        # By message id: messages in flight, and answers that came before publish() returned.
        self._in_flight: dict[int, Kept] = {}
        self._early: dict[int, Any] = {}
        # Messages taken back from paho while they were being handed over.
        self._taken_back: set[int] = set()
        self._sending = False
        self._window = 0
        self._terms = Terms()
        # While the broker drops messages: when to send again, one message at a time, to see whether it still does.
        self._nobody_until: float | None = None
        self._dropped_in_a_row = 0
        self._dropped_counter = meter().create_counter(
            "mqtt_delivery.publisher.dropped", "{message}", "Messages that were dropped."
        )
        self.published = 0
        self.dropped = 0
        client.max_inflight_messages_set(0)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        self._observe()

    @property
    def waiting(self) -> int:
        """The number of messages that the broker has not acknowledged."""
        with self._changed:
            return len(self._buffer)

    @property
    def stalled_seconds(self) -> float:
        """Seconds since the last acknowledgement while messages wait; 0 if none waits."""
        with self._changed:
            return time.monotonic() - self._progress if len(self._buffer) else 0.0

    @property
    def live(self) -> bool:
        """The network thread is alive and makes progress; if not, only a restart helps."""
        return self._connection.live

    @property
    def connected(self) -> bool:
        """Connected, and the broker sent a packet within 1.5 keep-alives."""
        return self._connection.connected

    @property
    def healthy(self) -> bool:
        """``live``, ``connected``, and the broker acknowledges messages: for a health check."""
        return self.live and self.connected and self._window > 0 and self.stalled_seconds < STALL_SECONDS

    def connect(self, host: str, port: int = 1883, keepalive_seconds: int = KEEPALIVE_SECONDS) -> None:
        """Connects in the background; reconnects whenever the connection is lost."""
        properties = None
        if self._client.protocol == mqtt.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)
            properties.MaximumPacketSize = RECEIVED_BYTES
        self._client.connect_async(host, port, keepalive_seconds, properties=properties)
        self._client.loop_start()

    def publish(self, topic: str, payload: bytes | str, properties: Properties | None = None) -> bool:
        """Takes a message with the current OpenTelemetry context, and publishes it as soon as possible.

        Args:
            topic: The topic.
            payload: The payload; text is encoded as UTF-8.
            properties: MQTT 5 properties.

        Returns:
            False if it was dropped: the buffer is full, or it cannot be written to disk.

        Raises:
            ValueError: The topic cannot be published to.
        """
        if not topic or "+" in topic or "#" in topic or len(topic.encode()) > 65_535:
            raise ValueError(f"{topic[:200]!r} is no topic to publish to")
        data = payload.encode() if isinstance(payload, str) else payload
        with self._changed:
            if len(self._buffer) >= self._size:
                self._drop("buffer_full", "the buffer is full and the broker away")
                return False
            if not len(self._buffer):
                self._progress = time.monotonic()
            try:
                self._buffer.put(topic, data, properties)
            except sqlite3.Error as error:
                self._drop("not_stored", f"the disk does not take them ({error})")
                return False
            self._accept()
        self._send()
        return True

    def wait_empty(self, timeout_seconds: float) -> bool:
        """Waits until the broker has acknowledged every message; False if that takes too long."""
        with self._changed:
            return self._changed.wait_for(lambda: not len(self._buffer), timeout_seconds)

    def close(self, timeout_seconds: float) -> int:
        """Waits until the broker has acknowledged every message, and disconnects.

        Args:
            timeout_seconds: How long to wait, at most.

        Returns:
            How many messages it has not acknowledged; with ``buffer_file`` the next process sends them.
        """
        self.wait_empty(timeout_seconds)
        self._client.disconnect()
        self._client.loop_stop()
        with self._changed:
            self._window = 0
            left = len(self._buffer)
            self._buffer.close()
        return left

    def _send(self) -> None:
        """Sends the messages that may be sent. Only one thread at a time does, which keeps the order."""
        while (kept := self._next()) is not None:
            token = attach(kept.context)
            mid = None
            try:
                # Without our lock: the network thread may hold a lock of paho while it waits for ours.
                mid = self._client.publish(kept.topic, kept.payload, 1, properties=kept.properties).mid
            except ValueError as error:
                log.error("a message on %s cannot be published: %s", kept.topic[:200], error)
            finally:
                detach(token)
                self._sent(kept, mid)

    def _next(self) -> Kept | None:
        with self._changed:
            if self._sending or len(self._in_flight) >= self._window:
                return None
            paused = self._nobody_until is not None and time.monotonic() < self._nobody_until
            if paused or (self._nobody_until is not None and self._in_flight):
                return None
            kept = self._take()
            self._sending = kept is not None
            return kept

    def _take(self) -> Kept | None:
        """The next message that is not too large for the broker."""
        while (kept := self._buffer.take()) is not None:
            if self._terms.takes(kept.topic, kept.payload, kept.properties):
                return kept
            log.error("a message on %s has %d bytes: too many for the broker", kept.topic[:200], len(kept.payload))
            self._count_dropped("refused")
            self._done(kept)
        return None

    def _sent(self, kept: Kept, mid: int | None) -> None:
        with self._changed:
            self._sending = False
            if mid is None:
                self._count_dropped("refused")
                self._done(kept)
            elif mid in self._early:
                self._answered(kept, self._early.pop(mid))
            elif mid in self._taken_back:
                self._buffer.put_back(kept)
            else:
                self._in_flight[mid] = kept
            self._early.clear()
            self._taken_back.clear()

    def _on_publish(self, client: mqtt.Client, userdata: Any, mid: int, reason_code: Any, *_: object) -> None:
        with self._changed:
            if mid in self._in_flight:
                self._answered(self._in_flight.pop(mid), reason_code)
            elif self._sending:
                self._early[mid] = reason_code
        self._send()

    def _answered(self, kept: Kept, reason_code: Any) -> None:
        if reason_code.value in (NO_MATCHING_SUBSCRIBERS, QUOTA_EXCEEDED):
            self._again(kept, reason_code)
            return
        self._nobody_until = None
        if reason_code.is_failure:
            log.error("the broker refuses a message on %s: %s", kept.topic[:200], reason(reason_code))
            self._count_dropped("refused")
        self._done(kept)

    def _again(self, kept: Kept, reason_code: Any) -> None:
        if self._nobody_until is None:
            if reason_code.value == NO_MATCHING_SUBSCRIBERS:
                log.error("nobody is subscribed to %s: the broker throws it away; it is sent again", kept.topic[:200])
            else:
                log.error("the broker takes no more for now (%s); what it refuses is sent again", reason_code)
        self._buffer.put_back(kept)
        self._progress = time.monotonic()
        if self._nobody_until is None or self._nobody_until <= self._progress:
            self._nobody_until = self._progress + PAUSE_SECONDS
            timer = threading.Timer(PAUSE_SECONDS, self._send)
            timer.daemon = True
            timer.start()

    def _done(self, kept: Kept) -> None:
        try:
            self._buffer.done(kept)
        except sqlite3.Error:
            log.exception("the buffer still has a message that the broker has taken; it will be sent again")
        self._progress = time.monotonic()
        self._changed.notify_all()

    def _on_connect(self, client: mqtt.Client, userdata: Any, flags: Any, reason_code: Any, properties: Any) -> None:
        if not self._connection.opened(reason_code, properties):
            return
        log.info("connected to the broker")
        terms = Terms.of(properties)
        if contradiction := terms.against_publishing():
            log.error("nothing is published: %s", contradiction)
            return
        window = min(IN_FLIGHT, terms.receive_maximum)
        self._take_back(window)
        with self._changed:
            self._window, self._terms = window, terms
            self._progress = time.monotonic()
        self._send()

    def _take_back(self, window: int) -> None:
        """Takes messages back from paho, which would send all at once, if the broker's Receive Maximum is now lower."""
        with self._changed:
            if len(self._in_flight) + self._sending <= window:
                return
        # Without our lock, as above.
        mids = [message.mid for message in self._client.drop_out_messages()]
        with self._changed:
            for mid in mids:
                kept = self._in_flight.pop(mid, None)
                if kept is None:
                    self._taken_back.add(mid)
                else:
                    self._buffer.put_back(kept)

    def _on_disconnect(self, client: mqtt.Client, userdata: Any, flags: Any, reason_code: Any, properties: Any) -> None:
        self._connection.ended(flags, reason_code, properties)
        # paho sends the messages in flight again. The rest waits here, so that after the reconnect no more messages are
        # in flight than the broker allows.
        with self._changed:
            self._window = 0

    def _accept(self) -> None:
        self.published += 1
        if self._dropped_in_a_row:
            log.warning("the buffer takes messages again; %d were dropped", self._dropped_in_a_row)
            self._dropped_in_a_row = 0

    def _drop(self, cause: str, what: str) -> None:
        if not self._dropped_in_a_row:
            log.error("%s: dropping messages from now on", what)
        self._dropped_in_a_row += 1
        self._count_dropped(cause)

    def _count_dropped(self, cause: str) -> None:
        self.dropped += 1
        self._dropped_counter.add(1, {CAUSE: cause})

    def _observe(self) -> None:
        def unsent() -> int:
            with self._changed:
                return len(self._buffer) - len(self._in_flight)

        def oldest_seconds() -> float:
            with self._changed:
                made = [kept.since for kept in self._in_flight.values()]
                if self._buffer.oldest is not None:
                    made.append(self._buffer.oldest)
                return max(0.0, time.time() - min(made)) if made else 0.0

        observe(
            "mqtt_delivery.publisher.in_flight",
            "{message}",
            "Messages that were sent and are not acknowledged.",
            lambda: len(self._in_flight),
        )
        observe("mqtt_delivery.publisher.waiting", "{message}", "Messages that are kept and were not sent yet.", unsent)
        observe(
            "mqtt_delivery.publisher.oldest.age",
            "s",
            "Age of the oldest message that the broker has not taken.",
            oldest_seconds,
        )
