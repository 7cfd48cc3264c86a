import time
from unittest.mock import Mock

import pytest
from paho.mqtt.client import MQTTMessage

from consumer.acknowledgements import Acknowledgements
from consumer.settings import Settings
from consumer.subscription import DROPPED, UPTIME, Subscription


def message(topic: str, payload: bytes) -> MQTTMessage:
    made = MQTTMessage(0, topic.encode())
    made.payload = payload
    return made


@pytest.fixture
def subscription() -> Subscription:
    return Subscription(Settings(), Mock(), Mock(), Mock())


def test_messages_that_the_broker_drops_raise_an_alarm(
    subscription: Subscription, caplog: pytest.LogCaptureFixture
) -> None:
    # What was dropped before this start was said before, or is not this consumer's.
    for count in (b"5", b"5"):
        subscription._on_message(Mock(), None, message(DROPPED, count))
    assert not caplog.records
    subscription._on_message(Mock(), None, message(DROPPED, b"8"))
    assert "the broker has dropped 3 messages: a queue was full" in caplog.text


def test_what_the_broker_says_of_itself_is_no_reading(subscription: Subscription) -> None:
    subscription._on_message(Mock(), None, message(UPTIME, b"12 seconds"))
    subscription._on_message(Mock(), None, message(DROPPED, b"0"))
    workers: Mock = subscription._workers  # pyright: ignore[reportAssignmentType] (the fixture's)
    workers.submit.assert_not_called()


def test_told_to_stop_it_takes_no_more_readings(subscription: Subscription) -> None:
    workers: Mock = subscription._workers  # pyright: ignore[reportAssignmentType] (the fixture's)
    subscription._on_message(Mock(), None, message("sensors/sensor-001/reading", b"{}"))
    subscription.stop_accepting()
    subscription._on_message(Mock(), None, message("sensors/sensor-001/reading", b"{}"))
    workers.submit.assert_called_once()


def test_silence_on_a_standing_connection_is_not_healthy(
    subscription: Subscription, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscription._subscribed = True
    assert subscription.healthy
    monkeypatch.setattr(subscription, "_heard", time.monotonic() - 20)
    assert not subscription.healthy
    assert not subscription.silent
    monkeypatch.setattr(subscription, "_heard", time.monotonic() - 31)
    assert subscription.silent


def test_a_session_is_left_when_the_last_message_came_and_all_are_acknowledged() -> None:
    client = Mock()
    acknowledgements = Acknowledgements(client)
    subscription = Subscription(Settings(), client, Mock(), acknowledgements)
    subscription.leave()
    subscription._on_connect(client, None, Mock(session_present=True), Mock(is_failure=False), None)
    client.subscribe.assert_called_once_with(UPTIME, qos=1)
    reading, last = message("sensors/sensor-001/reading", b"{}"), message(UPTIME, b"12 seconds")
    reading.qos, last.qos, last.retain = 1, 1, True
    subscription._on_message(client, None, reading)
    assert not subscription.left
    subscription._on_message(client, None, last)
    assert not subscription.left
    acknowledgements.done(acknowledgements._arrived[0])
    assert subscription.left
    # What was acknowledged on a connection that is lost may come again.
    subscription._on_disconnect()
    assert not subscription.left


def test_a_session_that_is_not_there_is_left_at_once(subscription: Subscription) -> None:
    subscription.leave()
    subscription._acknowledgements = Acknowledgements(Mock())
    subscription._on_connect(Mock(), None, Mock(session_present=False), Mock(is_failure=False), None)
    assert subscription.left
