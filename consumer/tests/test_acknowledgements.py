import threading
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import MQTTMessage

from consumer.acknowledgements import Acknowledgements, Delivery
from consumer.workers import Workers


class Client:
    """Notes what is acknowledged."""

    def __init__(self) -> None:
        self.acknowledged: list[int] = []

    def ack(self, mid: int, qos: int) -> None:
        self.acknowledged.append(mid)


def message(mid: int, payload: bytes = b"", dup: bool = False, qos: int = 1, topic: bytes = b"t") -> MQTTMessage:
    made = MQTTMessage(mid, topic)
    made.payload, made.dup, made.qos = payload, dup, qos
    return made


def arrived(acknowledgements: Acknowledgements, *messages: MQTTMessage) -> list[Delivery]:
    deliveries = [acknowledgements.arrived(message) for message in messages]
    assert None not in deliveries
    return [delivery for delivery in deliveries if delivery is not None]


@given(st.permutations(range(1, 9)))
def test_acknowledgements_go_out_in_the_order_of_arrival(done_in_order: list[int]) -> None:
    client: Any = Client()
    acknowledgements = Acknowledgements(client)
    deliveries = arrived(acknowledgements, *(message(mid) for mid in range(1, 9)))
    finished: set[int] = set()
    for mid in done_in_order:
        acknowledgements.done(deliveries[mid - 1])
        finished.add(mid)
        ready = next(count for count in range(9) if count + 1 not in finished)
        assert client.acknowledged == list(range(1, ready + 1))


def test_threads_that_finish_at_once_keep_the_order() -> None:
    client: Any = Client()
    acknowledgements = Acknowledgements(client)
    deliveries = arrived(acknowledgements, *(message(mid) for mid in range(1, 1001)))
    shares = [deliveries[number::8][::-1] for number in range(8)]
    threads = [threading.Thread(target=lambda share=share: [*map(acknowledgements.done, share)]) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.acknowledged == list(range(1, 1001))


def test_what_is_worked_on_is_not_taken_again_after_a_reconnect() -> None:
    client: Any = Client()
    acknowledgements = Acknowledgements(client)
    (delivery,) = arrived(acknowledgements, message(7, b"reading"))
    acknowledgements.connection_lost()
    assert acknowledgements.arrived(message(7, b"reading", dup=True)) is None
    assert client.acknowledged == []
    acknowledgements.done(delivery)
    assert client.acknowledged == [7]


def test_what_was_done_while_disconnected_is_acknowledged_when_it_comes_again() -> None:
    client: Any = Client()
    acknowledgements = Acknowledgements(client)
    (delivery,) = arrived(acknowledgements, message(7, b"reading"))
    acknowledgements.connection_lost()
    acknowledgements.done(delivery)
    assert client.acknowledged == []
    assert acknowledgements.arrived(message(7, b"reading", dup=True)) is None
    assert client.acknowledged == [7]


def test_another_message_with_the_same_id_is_new() -> None:
    client: Any = Client()
    acknowledgements = Acknowledgements(client)
    arrived(acknowledgements, message(7, b"reading"))
    acknowledgements.connection_lost()
    assert acknowledgements.arrived(message(7, b"another", dup=True)) is not None
    acknowledgements.connection_lost()
    assert acknowledgements.arrived(message(7, b"another")) is not None


def test_qos_0_is_not_acknowledged() -> None:
    client: Any = Client()
    acknowledgements = Acknowledgements(client)
    (delivery,) = arrived(acknowledgements, message(0, qos=0))
    acknowledgements.done(delivery)
    assert client.acknowledged == []


def test_the_readings_of_a_device_stay_in_order() -> None:
    handled: dict[str, list[int]] = {}
    lock = threading.Lock()
    everything = threading.Semaphore(0)

    def handle(deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            with lock:
                handled.setdefault(delivery.message.topic, []).append(delivery.message.mid)
            everything.release()

    for batch_size in (1, 7):
        handled.clear()
        workers = Workers(4, handle, batch_size, batch_seconds=0.01)
        for mid in range(500):
            workers.submit(Delivery(message(mid, topic=b"sensors/%d/reading" % (mid % 13))))
        assert all(everything.acquire(timeout=10) for _ in range(500))
        workers.stop(5)
        assert len(handled) == 13
        assert all(mids == sorted(mids) for mids in handled.values())


def test_stopping_finishes_what_is_there() -> None:
    begun, go_on = threading.Event(), threading.Event()
    handled: list[int] = []

    def handle(deliveries: list[Delivery]) -> None:
        begun.set()
        assert go_on.wait(10)
        handled.extend(delivery.message.mid for delivery in deliveries)

    workers = Workers(1, handle)
    for mid in range(3):
        workers.submit(Delivery(message(mid)))
    assert begun.wait(10)
    threading.Timer(0.1, go_on.set).start()
    workers.stop(5)
    assert handled == [0, 1, 2]


def test_stopping_does_not_wait_for_ever() -> None:
    go_on = threading.Event()

    def handle(deliveries: list[Delivery]) -> None:
        go_on.wait(10)

    workers = Workers(1, handle)
    workers.submit(Delivery(message(1)))
    workers.stop(0.1)
    go_on.set()
