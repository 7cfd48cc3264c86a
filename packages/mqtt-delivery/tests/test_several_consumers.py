"""Several consumers in one process."""

import threading

from delivery_harness import Broker, Handled, connected, consuming, eventually, publish, values
from opentelemetry.sdk.metrics.export import InMemoryMetricReader


def test_a_gauge_has_one_value_for_all_consumers_of_a_process(
    broker: Broker, topic: str, reader: InMemoryMetricReader
) -> None:
    go_on = threading.Event()
    handled = Handled(lambda message: go_on.wait(20))
    with connected(broker) as (client, _), consuming(broker, f"{topic}/1", handled):
        with consuming(broker, f"{topic}/2", handled):
            publish(client, f"{topic}/1", b"", b"")
            publish(client, f"{topic}/2", b"")
            eventually(lambda: values(reader)["mqtt_delivery.consumer.in_flight"] == [3])
            assert 0 < values(reader)["mqtt_delivery.consumer.oldest.age"][0] < 20
            go_on.set()
        # One that has ended does not count any more.
        eventually(lambda: values(reader)["mqtt_delivery.consumer.in_flight"] == [0])
