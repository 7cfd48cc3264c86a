"""A cluster of brokers of which nodes are killed; ``make test-brokers``."""

import itertools
import os
import re
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

import pytest
from test_brokers import Service, publish

from brokers.launcher import PASSWORD, USER, Artemis, Running, missing
from harness import eventually
from ledger import QUIET, Ledger, NewStack, NotingStack, Taken
from stack.settings import ROOT, Settings

READINGS_PER_SECOND = 100
# So many readings show that they flow.
FLOW = 500
WAITING = 300
SHARE = ROOT / "kubernetes/components/artemis/nodes/share.sh"
SENT = re.compile(r"stopping after (\d+) readings")

pytestmark = [pytest.mark.brokers, pytest.mark.timeout(600)]


class Balancer:
    """Forwards each connection to a node that accepts it, in turn, as a Service of Kubernetes does.

    Attributes:
        port: The port on which it listens.
    """

    def __init__(self, nodes: Sequence[int]) -> None:
        self._nodes, self._turns = nodes, itertools.count()
        self._open: list[set[socket.socket]] = [set() for _ in nodes]
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def connections(self, node: int) -> int:
        """How many clients are connected to a node."""
        return len(self._open[node])

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(near, next(self._turns)), daemon=True).start()

    def _serve(self, near: socket.socket, turn: int) -> None:
        with near:
            for offset in range(len(self._nodes)):
                node = (turn + offset) % len(self._nodes)
                with suppress(OSError):
                    far = socket.create_connection(("127.0.0.1", self._nodes[node]))
                    break
            else:
                return
            with far:
                self._open[node].add(far)
                back = threading.Thread(target=self._pass, args=(far, near), daemon=True)
                back.start()
                self._pass(near, far)
                back.join()
                self._open[node].remove(far)

    @staticmethod
    def _pass(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(4096):
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class StackAtCluster:
    """What a ledger needs from a stack."""

    def __init__(self, port: int, taken: Taken) -> None:
        self.settings = Settings(
            _env_file=None,  # pyright: ignore[reportCallIssue] (it is pydantic-settings')
            mqtt_port=port,
            mqtt_operator_username=USER,
            mqtt_operator_password=PASSWORD,
        )
        self.taken = taken


@pytest.fixture
def stack(new_shared_stack: NewStack) -> NotingStack:
    """A stack without a broker and without MQTT clients."""
    made = new_shared_stack(NotingStack, **QUIET)
    made.up()
    for part in ("producer", "consumer", "mosquitto"):
        made.stop_part(part)
    return made


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Running]:
    """Two nodes of Artemis."""
    artemis = Artemis()
    if why := missing(artemis):
        pytest.skip(why)
    with artemis.running(tmp_path) as running:
        for node in range(len(running.ports)):
            wait(running, node)
        yield running


def wait(cluster: Running, node: int) -> None:
    """Waits until a node is ready, as its startup probe does."""
    cluster.wait()
    login = {"MQTT_CONSUMER_USERNAME": USER, "MQTT_CONSUMER_PASSWORD": PASSWORD}
    probe = ["bash", str(SHARE), str(cluster.ports[node])]
    eventually(lambda: subprocess.run(probe, env={**os.environ, **login}, check=False).returncode == 0)


@pytest.fixture
def balancer(cluster: Running) -> Iterator[Balancer]:
    """The address of the cluster."""
    with closing(Balancer(cluster.ports)) as made:
        yield made


@pytest.fixture
def ledger(stack: NotingStack, balancer: Balancer) -> Iterator[Ledger]:
    """What becomes of the readings."""
    with closing(Ledger(StackAtCluster(balancer.port, stack.taken))) as made:
        yield made


def consumer(stack: NotingStack, port: int, number: int) -> Service:
    return Service(stack, "consumer", port, MQTT_CLIENT_ID=f"consumer-{number}", CONSUMERS="16")


def producer(stack: NotingStack, port: int, number: int) -> Service:
    load = {"DEVICES": str(READINGS_PER_SECOND // 2), "INTERVAL_SECONDS": "1"}
    return Service(stack, "producer", port, MQTT_PRODUCER_CLIENT_ID=f"producer-{number}", **load)


def test_a_cluster_of_which_each_node_is_killed_under_load_loses_nothing(
    stack: NotingStack, cluster: Running, balancer: Balancer, ledger: Ledger
) -> None:
    def flow() -> None:
        """Waits until readings flow."""
        wanted = ledger.processed().total() + FLOW
        eventually(lambda: ledger.processed().total() >= wanted, 60)

    # Connections alternate between the nodes: each has a consumer and a producer.
    with consumer(stack, balancer.port, 0) as first, consumer(stack, balancer.port, 1) as second:
        eventually(lambda: first.healthy() and second.healthy())
        before = ledger.processed()
        with producer(stack, balancer.port, 0) as one, producer(stack, balancer.port, 1) as other:
            flow()
            for node in range(len(cluster.ports)):
                assert balancer.connections(node)
                cluster.kill(node)
                flow()
                cluster.start(node)
                wait(cluster, node)
                flow()
            assert (one.stop(), other.stop()) == (0, 0)
        sent = sum(int(found) for log in (one.log, other.log) for found in SENT.findall(log))

        def processed() -> Counter[str]:
            return ledger.processed() - before

        try:
            eventually(lambda: len(processed()) >= sent, 60)
        finally:
            twice, dead = processed().total() - len(processed()), ledger.dead_lettered().total()
            print(f"sent {sent}, processed {len(processed())}, twice {twice}, dead-lettered {dead}")
            print(f"delivered again {len(ledger.taken('again'))}")
        assert (len(processed()), twice, dead) == (sent, 0, 0)
        assert first.processed
        assert second.processed


def test_readings_in_a_dead_node_wait_for_it(
    stack: NotingStack, cluster: Running, balancer: Balancer, ledger: Ledger
) -> None:
    # Nobody consumes.
    ledger.sent += publish(cluster.ports[0], "waits", WAITING)
    cluster.kill(0)
    with consumer(stack, balancer.port, 0):
        goes_on = publish(cluster.ports[1], "goes-on", WAITING)
        eventually(lambda: goes_on <= ledger.processed().keys(), 60)
        assert not ledger.processed().keys() & ledger.sent
        # The consumer stays with the other node, and gets the readings there.
        cluster.start(0)
        wait(cluster, 0)
        ledger.settle()
        assert not ledger.lost()
        assert not ledger.twice()
        assert not balancer.connections(0)


def test_a_node_that_starts_alone_keeps_readings_for_the_consumers(
    stack: NotingStack, cluster: Running, balancer: Balancer, ledger: Ledger
) -> None:
    for node in (0, 1):
        cluster.kill(node)
    cluster.start(1)
    wait(cluster, 1)
    ledger.sent += publish(cluster.ports[1], "waits", WAITING)
    cluster.start(0)
    wait(cluster, 0)
    with consumer(stack, cluster.ports[0], 0):
        ledger.settle()
        assert not ledger.lost()
        assert not ledger.twice()
