"""The consumer: puts its parts together and runs them from the first connection to the last."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from datetime import datetime

import paho.mqtt.client as mqtt
from paho.mqtt.properties import Properties
from tenacity.wait import wait_base

from mqtt_delivery import received_properties
from mqtt_delivery.acknowledgements import Acknowledgements, Delivery
from mqtt_delivery.bounds import Bounds
from mqtt_delivery.dead_letters import DeadLetters
from mqtt_delivery.keys import KeysHeard
from mqtt_delivery.message import Message, Reject
from mqtt_delivery.metrics import ConsumerMetrics, observe
from mqtt_delivery.patience import DEFAULT_WAIT, Patience
from mqtt_delivery.processing import BatchHandler, Handler, MessageId, Processor
from mqtt_delivery.publishing import AcknowledgedPublishes
from mqtt_delivery.seen import Seen
from mqtt_delivery.session import LeaveError, Session
from mqtt_delivery.workers import Workers

log = logging.getLogger(__name__)

KEEPALIVE_SECONDS = 20


class Consumer:
    """Hands each message of a subscription to a handler, and acknowledges it when the handler has done its work.

    Args:
        client: A client that is not connected yet. The consumer sets its callbacks and sends its acknowledgements. It
            speaks MQTT 5, or 3.1.1 with ``clean_session=False``.
        topic_filter: What to subscribe to, with QoS 1.
        handle: Called in a worker thread, inside the process span. If it returns, the message is acknowledged. If it
            raises ``Reject``, the message becomes a dead letter at once. After any other exception it is tried again.
        workers: How many threads call it.
        retry_seconds: How long a message is tried before it becomes a dead letter.
        reject: Exceptions that make a message a dead letter at once, as ``Reject`` does.
        dead_letter: The topic of dead letters; ``{topic}`` in it is that of the message.
        key: Returns the key of a message: messages with the same key stay in order. The topic if not given.
        message_id: Returns the id of a message, up to 256 characters; None, or an exception, if it has none. It becomes
            ``messaging.message.id`` of the process span.
        remembered_ids: How many ids of processed messages are remembered, to recognise duplicates; 0: none.
        made_at: Returns when a message was made, or raises if that is unknown. The consumer measures its age when it
            has processed it.
        silent_seconds: A key counts as silent when no message came from it for this time; None: keys are not watched.
        handle_batch: Called with up to ``batch_size`` messages at once, in one span that is linked to each. If it
            raises, they go to ``handle`` one by one.
        batch_size: How many messages go to ``handle_batch``.
        batch_seconds: How long a batch waits to fill up.
        receive_maximum: How many messages the broker sends ahead of their acknowledgements, 1 to 65,535 (MQTT 5.0,
            3.1.2.11.3). It limits how many messages wait here. Some brokers ignore it, and MQTT 3.1.1 does not have
            it: so the consumer ignores messages beyond the memory of ``receive_maximum`` messages of
            ``maximum_packet_size``, or 8 MiB if that is more, until the broker sends them again after a reconnect.
        maximum_packet_size: The largest packet that the broker sends, in bytes (MQTT 5.0, 3.1.2.11.4). The broker drops
            a larger message as if it were delivered.
        maximum_topic_bytes: A message with a longer topic becomes a dead letter at once.
        maximum_user_properties: A message with more of them becomes a dead letter at once.
        hold_up_seconds: How long messages of one key may fail and hold up all others once ``receive_maximum`` is
            reached.
        wait: The pause before the next attempt: a wait strategy of tenacity.
        session_expiry_seconds: How long the broker keeps messages while this consumer is not connected.
        consumers: How many consumers share the messages, through a shared subscription (MQTT 5.0, 4.8.2). A single
            consumer uses an ordinary subscription.
        share_name: The name of the share.
        retain_handling: Which retained messages the subscription brings: 0 all, each time; 1 when it is new; 2 (the
            default) none (MQTT 5.0, 3.8.3.1).
        on_session_lost: Called when the broker has lost the session or keeps it for a shorter time, with a text that
            says which.
        heartbeat: Whether the consumer sends itself a message on ``heartbeat/<client id>`` when no other has come for
            5 s, and expects it back. Without it, nothing is known about what the broker delivers.

    Raises:
        ValueError: The client speaks another version, or keeps no session, or a number is out of range.
    """

    def __init__(
        self,
        client: mqtt.Client,
        topic_filter: str,
        handle: Handler,
        *,
        workers: int = 4,
        retry_seconds: float = 60.0,
        reject: tuple[type[Exception], ...] = (),
        dead_letter: str = "dead-letter/{topic}",
        key: Callable[[Message], str] | None = None,
        message_id: MessageId | None = None,
        remembered_ids: int = 0,
        made_at: Callable[[Message], datetime] | None = None,
        silent_seconds: float | None = None,
        handle_batch: BatchHandler | None = None,
        batch_size: int = 1,
        batch_seconds: float = 0.2,
        receive_maximum: int = 100,
        maximum_packet_size: int = 65_536,
        maximum_topic_bytes: int = 1024,
        maximum_user_properties: int = 100,
        hold_up_seconds: float = 1.0,
        wait: wait_base = DEFAULT_WAIT,
        session_expiry_seconds: int = 3600,
        consumers: int = 1,
        share_name: str = "consumers",
        retain_handling: int = 2,
        on_session_lost: Callable[[str], object] | None = None,
        heartbeat: bool = True,
    ) -> None:
        if client.protocol not in (mqtt.MQTTv5, mqtt.MQTTv311):
            raise ValueError("a consumer needs a client with protocol=MQTTv5 or MQTTv311, not MQTTv31 or older")
        if client.protocol == mqtt.MQTTv311 and client._clean_session:  # pyright: ignore[reportPrivateUsage] (it has no public name)
            raise ValueError("a consumer of MQTT 3.1.1 needs a client with clean_session=False")
        if workers < 1 or batch_size < 1 or not 1 <= receive_maximum <= 65_535:
            raise ValueError("workers and batch_size must be 1 or more, receive_maximum 1 to 65535")
        received_properties.use_for_paho()
        self._key = key
        self._on_session_lost = on_session_lost
        self._acknowledgements = Acknowledgements(client, receive_maximum)
        self._metrics = ConsumerMetrics()
        self._keys = None if silent_seconds is None else KeysHeard(silent_seconds)
        self._publishes = AcknowledgedPublishes(client)
        self._patience = Patience(self._acknowledgements, wait, retry_seconds, hold_up_seconds)
        self._bounds = Bounds(receive_maximum, maximum_packet_size, maximum_topic_bytes, maximum_user_properties)
        processor = Processor(
            client,
            handle,
            handle_batch,
            message_id,
            made_at,
            (Reject, *reject),
            self._bounds,
            self._finished,
            self._patience,
            DeadLetters(self._publishes, dead_letter, maximum_topic_bytes),
            Seen(remembered_ids),
            self._metrics,
        )
        self._workers = Workers(
            workers, processor.work, processor.work_together, batch_size if handle_batch else 1, batch_seconds
        )
        shared = f"$share/{share_name}/{topic_filter}"
        self._session = Session(
            client,
            # With both subscriptions, each message would come twice.
            (shared, topic_filter) if consumers > 1 else (topic_filter, shared),
            self._bounds,
            session_expiry_seconds,
            retain_handling,
            heartbeat,
            self._publishes,
            self._acknowledgements,
            arrived=self._hand_over,
            session_lost=self._session_lost,
            malformed=self._metrics.malformed_packet,
        )
        self._observed = list(self._observe())

    @property
    def live(self) -> bool:
        """The network thread is alive and makes progress; if not, only a restart helps."""
        return self._session.live

    @property
    def connected(self) -> bool:
        """Connected, and the broker sent a packet within 1.5 keep-alives."""
        return self._session.connected

    @property
    def delivers(self) -> bool:
        """Subscribed, and messages come, or at least the consumer's own heartbeat."""
        return self._session.delivers

    @property
    def healthy(self) -> bool:
        """``live``, ``connected`` and ``delivers``: for a health check."""
        return self._session.healthy

    def connect(self, host: str, port: int = 1883, keepalive_seconds: int = KEEPALIVE_SECONDS) -> Consumer:
        """Connects in the background and processes messages; reconnects whenever the connection is lost."""
        self._session.connect(host, port, keepalive_seconds)
        return self

    def run(
        self, stop: threading.Event, healthy: Callable[[], object] = lambda: None, drain_seconds: float = 3.0
    ) -> bool:
        """Runs until told to stop; the broker keeps the messages that are not processed then.

        Args:
            stop: Set it to stop.
            healthy: Called each second while the consumer is healthy.
            drain_seconds: How long stopping may take, at most.

        Returns:
            True if it was told to stop. False if nothing comes on an open connection, so that only a restart helps, or
            if the broker cannot do what was asked, such as a shared subscription.
        """
        while not stop.wait(1.0):
            if self._session.healthy:
                healthy()
            elif stalled := self._session.stalled:
                log.critical("stopping: %s", stalled)
                return False
        self.stop(drain_seconds)
        return True

    def stop(self, drain_seconds: float = 3.0) -> None:
        """Finishes and acknowledges the messages in work, and disconnects; the broker keeps the rest."""
        self._end(drain_seconds, end_session=False)

    def leave(
        self,
        stop: threading.Event,
        host: str,
        port: int = 1883,
        keepalive_seconds: int = KEEPALIVE_SECONDS,
        drain_seconds: float = 3.0,
    ) -> bool:
        """Connects, unsubscribes, processes what the session still holds, and ends the session.

        Returns:
            False if it was told to stop before the session was empty, or could not find out whether it is empty: then
            the session stays, with the messages that it holds.
        """
        self._session.leave(host, port, keepalive_seconds)
        failed = None
        try:
            while not self._session.is_empty():
                if stop.wait(0.05):
                    failed = "told to stop"
                    break
        except LeaveError as error:
            failed = str(error)
        if failed:
            log.error("%s: the session of %s goes on, with what it holds", failed, self._session.name)
        self._end(drain_seconds, end_session=not failed)
        return not failed

    def publish(
        self,
        topic: str,
        payload: bytes | str,
        *,
        properties: Properties | None = None,
        retain: bool = False,
        timeout_seconds: float = 10.0,
    ) -> None:
        """Publishes with QoS 1, from within a handler, and returns when the broker has the message.

        So the handled message is acknowledged only after the broker has the new one.

        Raises:
            PublishError: The broker refuses it or does not answer in time. If the handler lets this exception through,
                its message is tried again.
            ValueError: The topic cannot be published to.
        """
        self._publishes.publish(topic, payload, properties, timeout_seconds, retain)

    def _end(self, drain_seconds: float, end_session: bool) -> None:
        acknowledgements = self._acknowledgements
        self._session.stop_accepting()
        self._workers.stop(acknowledgements.last_done, lambda: not acknowledgements.done_count, drain_seconds)
        self._session.disconnect(end_session)
        for forget in self._observed:
            forget()
        self._observed.clear()

    def _hand_over(self, message: mqtt.MQTTMessage) -> None:
        topic = message._topic.decode("utf-8", "replace")  # pyright: ignore[reportPrivateUsage] (`topic` raises if it is not UTF-8)
        refusal = self._bounds.refusal(message)
        delivery = Delivery(message, topic, self._bounds.bytes_of(message))
        delivery.dead_letter = refusal
        if self._acknowledgements.arrived(delivery):
            key = self._key_of(delivery)
            if self._keys is not None:
                self._keys.heard(key)
            self._workers.submit(key, delivery)

    def _finished(self, delivery: Delivery) -> None:
        oldest = self._acknowledgements.done(delivery)
        self._session.acknowledged()
        if oldest is not None:
            self._workers.hurry(oldest, self._patience.last_attempt)

    def _key_of(self, delivery: Delivery) -> str:
        if self._key is not None:
            message = delivery.message
            try:
                return self._key(Message(delivery.topic, bytes(message.payload), message.properties))
            except Exception:
                log.exception("key failed; a message on %s keeps its order by topic", delivery.topic)
        return delivery.topic

    def _session_lost(self, what: str, forget: bool) -> None:
        log.error("%s", what)
        self._metrics.session_lost()
        if forget:
            self._acknowledgements.session_lost()
        if self._on_session_lost is not None:
            try:
                self._on_session_lost(what)
            except Exception:
                log.exception("on_session_lost failed")

    def _observe(self) -> Iterator[Callable[[], object]]:
        acknowledgements, workers, keys = self._acknowledgements, self._workers, self._keys
        yield observe(
            "mqtt_delivery.consumer.in_flight",
            "{message}",
            "Messages that have arrived and are not acknowledged.",
            lambda: acknowledgements.count,
        )
        yield observe(
            "mqtt_delivery.consumer.waiting",
            "{message}",
            "Messages that wait for a thread, or for their next attempt.",
            lambda: workers.waiting,
        )
        yield observe(
            "mqtt_delivery.consumer.oldest.age",
            "s",
            "How long the oldest message that is not acknowledged has been here.",
            lambda: acknowledgements.oldest_seconds,
            max,
        )
        if keys is not None:
            yield observe(
                "mqtt_delivery.consumer.keys.silent",
                "{key}",
                "Keys from which nothing has come lately.",
                lambda: keys.silent,
            )
