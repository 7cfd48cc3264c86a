import time
from unittest.mock import Mock

import pytest
from paho.mqtt.client import MQTTMessage

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
