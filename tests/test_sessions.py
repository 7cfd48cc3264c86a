"""A user of the broker has only its own rights, and cannot get into another user's session."""

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from harness import eventually
from ledger import NewStack, NotingStack, Publisher

READINGS = "sensors/+/reading"


@pytest.fixture(scope="module")
def quiet_stack(new_shared_stack: NewStack) -> NotingStack:
    """A stack whose own producer stays silent."""
    stack = new_shared_stack(NotingStack, DEVICES="1", INTERVAL_SECONDS="86400")
    stack.up()
    return stack


class Stranger:
    """Raw paho, logged in as a user of the broker."""

    def __init__(self, stack: NotingStack, user: str, client_id: str, *, clean_start: bool = True) -> None:
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5)
        role = user.partition("-")[0]
        password = getattr(stack.settings, f"mqtt_{role}_password").get_secret_value()
        self._client.username_pw_set(user, password)
        self.answers: list[ReasonCode] = []
        self.subscribed: list[ReasonCode] = []
        self.received: list[mqtt.MQTTMessage] = []
        self._client.on_connect = lambda *arguments: self.answers.append(arguments[3])
        self._client.on_subscribe = lambda *arguments: self.subscribed.extend(arguments[3])
        self._client.on_message = lambda *arguments: self.received.append(arguments[2])
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 0
        self._client.connect("127.0.0.1", stack.settings.mqtt_port, clean_start=clean_start, properties=properties)
        self._client.loop_start()
        eventually(lambda: self.answers)

    def subscribe(self, topic_filter: str) -> ReasonCode:
        """Subscribes; returns the broker's answer."""
        self._client.subscribe(topic_filter, qos=1)
        return eventually(lambda: self.subscribed)[-1]

    def close(self) -> None:
        """Disconnects."""
        self._client.disconnect()
        self._client.loop_stop()


@pytest.mark.parametrize("user", ["producer", "producer-once", "consumer-2"])
@pytest.mark.parametrize("clean_start", [True, False], ids=["wipe", "listen"])
def test_nobody_takes_the_consumers_session(quiet_stack: NotingStack, user: str, clean_start: bool) -> None:
    publisher = Publisher(quiet_stack)
    try:
        quiet_stack.stop_part("consumer")
        publisher.send(5)
        stranger = Stranger(quiet_stack, user, "consumer", clean_start=clean_start)
        stranger.close()
        quiet_stack.start_part("consumer")
        publisher.ledger.settle()
        assert str(stranger.answers[0]) == "Not authorized"
        assert not stranger.received
        assert publisher.ledger.processed().keys() >= set(publisher.ledger.sent)
    finally:
        publisher.close()


@pytest.mark.parametrize("topic_filter", [f"$share/consumers/{READINGS}", f"$share/mine/{READINGS}", READINGS, "#"])
def test_who_may_not_read_cannot_join_the_share(quiet_stack: NotingStack, topic_filter: str) -> None:
    stranger, publisher = Stranger(quiet_stack, "producer-once", "producer-once"), Publisher(quiet_stack)
    try:
        assert str(stranger.subscribe(topic_filter)) == "Not authorized"
        publisher.send(20)
        publisher.ledger.settle()
        assert not stranger.received
    finally:
        publisher.close()
        stranger.close()
