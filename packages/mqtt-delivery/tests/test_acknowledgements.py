import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import MQTTMessage

from mqtt_delivery.acknowledgements import Acknowledgements, Delivery


class Client:
    """Records the acknowledgements."""

    def __init__(self) -> None:
        self.acknowledged: list[int] = []

    def ack(self, mid: int, qos: int) -> None:
        self.acknowledged.append(mid)


def message(mid: int, payload: bytes = b"", dup: bool = False, qos: int = 1, topic: bytes = b"t") -> MQTTMessage:
    made = MQTTMessage(mid, topic)
    made.payload, made.dup, made.qos = payload, dup, qos
    return made


def delivery(mid: int, payload: bytes = b"", dup: bool = False, qos: int = 1) -> Delivery:
    return Delivery(message(mid, payload, dup, qos), "t")


def arrived(acknowledgements: Acknowledgements, *deliveries: Delivery) -> list[Delivery]:
    for each in deliveries:
        assert acknowledgements.arrived(each)
    return list(deliveries)


@given(st.permutations(range(1, 9)))
def test_acknowledgements_go_out_in_the_order_of_arrival(done_in_order: list[int]) -> None:
    client: Any = Client()
    acknowledgements = Acknowledgements(client, 100)
    deliveries = arrived(acknowledgements, *(delivery(mid) for mid in range(1, 9)))
    finished: set[int] = set()
    for mid in done_in_order:
        acknowledgements.done(deliveries[mid - 1])
        finished.add(mid)
        ready = next(count for count in range(9) if count + 1 not in finished)
        assert client.acknowledged == list(range(1, ready + 1))
        assert acknowledgements.count == 8 - ready
        assert acknowledgements.done_count == len(finished) - ready


def test_threads_that_finish_at_once_keep_the_order() -> None:
    client: Any = Client()
    acknowledgements = Acknowledgements(client, 100)
    deliveries = arrived(acknowledgements, *(delivery(mid) for mid in range(1, 1001)))
    shares = [deliveries[number::8][::-1] for number in range(8)]
    threads = [threading.Thread(target=lambda share=share: [*map(acknowledgements.done, share)]) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.acknowledged == list(range(1, 1001))


def test_a_broker_that_exceeds_receive_maximum_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    client: Any = Client()
    acknowledgements = Acknowledgements(client, 10)
    deliveries = arrived(acknowledgements, *(delivery(mid) for mid in range(1, 11)))
    assert not caplog.records
    acknowledgements.done(deliveries[0])
    arrived(acknowledgements, *(delivery(mid) for mid in range(11, 15)))
    assert [record.getMessage() for record in caplog.records] == [
        "the broker sends more than the Receive Maximum of 10 messages ahead"
    ]


def test_what_is_worked_on_is_not_taken_again_after_a_reconnect() -> None:
    client: Any = Client()
    acknowledgements = Acknowledgements(client, 100)
    (first,) = arrived(acknowledgements, delivery(7, b"reading"))
    acknowledgements.connection_lost()
    assert not acknowledgements.arrived(delivery(7, b"reading", dup=True))
    assert client.acknowledged == []
    acknowledgements.done(first)
    assert client.acknowledged == [7]
    assert first.redelivered


def test_what_was_done_while_disconnected_is_acknowledged_when_it_comes_again() -> None:
    client: Any = Client()
    acknowledgements = Acknowledgements(client, 100)
    (first,) = arrived(acknowledgements, delivery(7, b"reading"))
    acknowledgements.connection_lost()
    acknowledgements.done(first)
    assert client.acknowledged == []
    assert not acknowledgements.arrived(delivery(7, b"reading", dup=True))
    assert client.acknowledged == [7]


def test_what_comes_again_with_another_packet_id_and_without_dup_is_recognised_once() -> None:
    client: Any = Client()
    acknowledgements = Acknowledgements(client, 100)
    first, second = arrived(acknowledgements, delivery(1, b"equal"), delivery(2, b"equal"))
    acknowledgements.connection_lost()
    assert not acknowledgements.arrived(delivery(11, b"equal"))
    assert not acknowledgements.arrived(delivery(12, b"equal"))
    # A third one with the same content is a new message.
    assert acknowledgements.arrived(delivery(13, b"equal"))
    acknowledgements.done(second)
    acknowledgements.done(first)
    assert client.acknowledged == [11, 12]


def test_other_content_with_the_same_packet_id_is_new() -> None:
    client: Any = Client()
    acknowledgements = Acknowledgements(client, 100)
    arrived(acknowledgements, delivery(7, b"reading"))
    acknowledgements.connection_lost()
    assert acknowledgements.arrived(delivery(7, b"another", dup=True))


def test_after_a_lost_session_everything_is_new() -> None:
    client: Any = Client()
    acknowledgements = Acknowledgements(client, 100)
    arrived(acknowledgements, delivery(7, b"reading"))
    acknowledgements.connection_lost()
    acknowledgements.session_lost()
    assert acknowledgements.arrived(delivery(7, b"reading"))


def test_qos_0_is_not_acknowledged() -> None:
    client: Any = Client()
    acknowledgements = Acknowledgements(client, 100)
    (only,) = arrived(acknowledgements, delivery(0, qos=0))
    acknowledgements.done(only)
    assert client.acknowledged == []


def test_what_is_done_and_waits_lets_go_of_its_payload_and_is_recognised_all_the_same() -> None:
    client: Any = Client()
    acknowledgements = Acknowledgements(client, 100)
    first, second = arrived(acknowledgements, delivery(1, b"a" * 1000), delivery(2, b"b" * 1000))
    acknowledgements.done(second)
    assert second.message.payload == b""
    acknowledgements.connection_lost()
    assert not acknowledgements.arrived(delivery(1, b"a" * 1000))
    assert not acknowledgements.arrived(delivery(2, b"b" * 1000))
    acknowledgements.done(first)
    assert client.acknowledged == [1, 2]


def test_the_oldest_holds_up_the_others_when_most_of_a_nearly_full_window_is_done() -> None:
    client: Any = Client()
    acknowledgements = Acknowledgements(client, 8)
    deliveries = arrived(acknowledgements, *(delivery(mid) for mid in range(1, 6)))
    assert [acknowledgements.done(each) for each in deliveries[1:]] == [None] * 4  # not nearly full
    assert not acknowledgements.holds_up_others(deliveries[0])
    (sixth,) = arrived(acknowledgements, delivery(6))
    assert acknowledgements.holds_up_others(deliveries[0])
    assert not acknowledgements.holds_up_others(sixth)
    assert acknowledgements.done(sixth) is deliveries[0]
    assert acknowledgements.last_done() == sixth.number
    assert acknowledgements.oldest_seconds > 0
    acknowledgements.done(deliveries[0])
    assert (acknowledgements.last_done(), acknowledgements.oldest_seconds, acknowledgements.count) == (0, 0, 0)
