"""The clients respect the CONNACK: of a Mosquitto configured for the test, or of a proxy that changes it."""

import signal
import threading

import pytest
from delivery_harness import (
    Broker,
    Handled,
    between,
    connected,
    consuming,
    eventually,
    new_client,
    publish,
    saying,
    user_properties,
)
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from mqtt_delivery import Consumer, Message, Publisher, PublishError


def configured(broker: Broker, *settings: str) -> None:
    broker.stop()
    broker.settings[:] = ["max_queued_messages 100000", "log_type all", *settings]
    broker.start()


def test_a_backlog_goes_out_within_what_another_broker_takes(own_broker: Broker, topic: str) -> None:
    publisher = Publisher(new_client(), size=2000)
    publisher.connect("127.0.0.1", own_broker.port)
    eventually(lambda: publisher.healthy)
    with connected(own_broker, topic):
        # 20 messages are in flight when the connection is lost; the restarted broker allows 3.
        own_broker.signal(signal.SIGSTOP)
        for number in range(1000):
            publisher.publish(topic, str(number))
    own_broker.signal(signal.SIGKILL)
    configured(own_broker, "max_inflight_messages 3")
    with connected(own_broker, topic) as (_, received):
        eventually(lambda: len({bytes(message.payload) for message in received}) == 1000)
    assert publisher.wait_empty(10)
    # It logs a client that exceeds this, and disconnects it.
    assert "eceive maximum" not in own_broker.log()
    publisher.close(1)


def test_a_handlers_publishes_stay_within_what_another_broker_takes(own_broker: Broker, topic: str) -> None:
    stopped = threading.Event()

    def does(message: Message) -> None:
        stopped.wait(30)
        consumer.publish(f"{topic}-out", message.payload)

    with consuming(own_broker, f"{topic}/+", Handled(does), client_id="worker", workers=20) as consumer:
        with connected(own_broker) as (client, _):
            for number in range(60):
                publish(client, f"{topic}/{number}", b"%d" % number)
        own_broker.signal(signal.SIGSTOP)
        stopped.set()
        eventually(lambda: consumer._publishes._unanswered == 20)
        own_broker.signal(signal.SIGKILL)
        configured(own_broker, "max_inflight_messages 2")
        with connected(own_broker, f"{topic}-out") as (_, received):
            for number in range(60, 80):
                consumer.publish(f"{topic}-out", b"%d" % number)
            eventually(lambda: {int(message.payload) for message in received} >= set(range(60, 80)))
    assert "eceive maximum" not in own_broker.log()


def test_shared_subscriptions_that_the_broker_lacks_are_refused(
    broker: Broker, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    with between(broker.port, saying(SharedSubscriptionAvailable=0)) as lacking:
        consumer = Consumer(new_client("one"), topic, Handled(), consumers=2).connect("127.0.0.1", lacking.port)
        assert not consumer.run(threading.Event())
        assert "stopping: more than one consumer needs shared subscriptions, which the broker does not have" in (
            caplog.text
        )
        assert not consumer.healthy
        consumer.stop()
        handled = Handled()
        with consuming(broker, topic, handled, port=lacking.port), connected(broker) as (client, _):
            publish(client, topic, b"alone")
            eventually(lambda: handled.messages)


def test_wildcards_that_the_broker_does_not_take_are_refused(
    broker: Broker, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    with between(broker.port, saying(WildcardSubscriptionAvailable=0)) as lacking:
        consumer = Consumer(new_client(), f"{topic}/+", Handled()).connect("127.0.0.1", lacking.port)
        assert not consumer.run(threading.Event())
        assert f"{topic}/+ has wildcards, which the broker does not take" in caplog.text
        consumer.stop()
        with consuming(broker, topic, Handled(), port=lacking.port):
            pass


def test_a_broker_without_qos_1_is_refused(own_broker: Broker, topic: str, caplog: pytest.LogCaptureFixture) -> None:
    configured(own_broker, "max_qos 0")
    consumer = Consumer(new_client(), topic, Handled()).connect("127.0.0.1", own_broker.port)
    assert not consumer.run(threading.Event())
    assert "stopping: the broker takes QoS 0 only, by which messages get lost" in caplog.text
    consumer.stop()
    publisher = Publisher(new_client())
    publisher.connect("127.0.0.1", own_broker.port)
    publisher.publish(topic, b"kept")
    eventually(lambda: "nothing is published: the broker takes QoS 0 only, by which messages get lost" in caplog.text)
    assert not publisher.healthy
    configured(own_broker)
    with connected(own_broker, topic) as (_, received):
        eventually(lambda: received)
    publisher.close(1)


def test_retained_messages_and_large_ones_are_not_sent_to_who_refuses_them(own_broker: Broker, topic: str) -> None:
    configured(own_broker, "retain_available false", "max_packet_size 5000")
    with (
        consuming(own_broker, topic, Handled()) as consumer,
        connected(own_broker, "out", "dead-letter/#") as (client, received),
    ):
        for payload, retain, why in (("x", True, "no retained messages"), ("x" * 5000, False, "5000 bytes are too")):
            with pytest.raises(PublishError, match=why):
                consumer.publish("out", payload, retain=retain)
        consumer.publish("out", "x")
        assert consumer.healthy
        eventually(lambda: received)
        # The size of the properties counts as well.
        publisher = Publisher(new_client())
        publisher.connect("127.0.0.1", own_broker.port)
        large = Properties(PacketTypes.PUBLISH)
        large.UserProperty = [("a", "x" * 1000)] * 5
        publisher.publish("out", b"large", large)
        publisher.publish("out", b"small")
        eventually(lambda: received[-1].payload == b"small")
        assert (publisher.dropped, publisher.close(1)) == (1, 0)
        assert client.is_connected()
    assert "oversize" not in own_broker.log()
    assert not user_properties(received[0])


def test_the_brokers_keepalive_is_the_one(own_broker: Broker, topic: str) -> None:
    configured(own_broker, "max_keepalive 10")
    client = new_client()
    consumer = Consumer(client, topic, Handled(), heartbeat=False)
    with between(own_broker.port, saying(ServerKeepAlive=2)) as hasty:
        consumer.connect("127.0.0.1", hasty.port, keepalive_seconds=60)
        eventually(lambda: consumer.healthy)
        assert client.keepalive == 2
        own_broker.signal(signal.SIGSTOP)
        try:
            # After 1.5 keep-alives of the broker, not of the client's own.
            eventually(lambda: not consumer.connected, 10)
        finally:
            own_broker.signal(signal.SIGCONT)
        eventually(lambda: consumer.healthy)
        consumer.stop()
    other = new_client()
    with_its_own = Consumer(other, topic, Handled()).connect("127.0.0.1", own_broker.port, keepalive_seconds=60)
    eventually(lambda: with_its_own.healthy)
    assert other.keepalive == 10
    with_its_own.stop()


def test_a_session_under_the_brokers_id_is_found_again(own_broker: Broker, topic: str) -> None:
    handled, said = Handled(), list[str]()
    consumer = Consumer(new_client(""), topic, handled, on_session_lost=said.append)
    consumer.connect("127.0.0.1", own_broker.port)
    with connected(own_broker, "heartbeat/#") as (_, _):
        eventually(lambda: consumer.healthy)
    own_broker.stop()
    own_broker.start()
    eventually(lambda: consumer.healthy)
    assert not said
    consumer.stop()
