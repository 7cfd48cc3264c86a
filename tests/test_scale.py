"""Several consumers share the readings: one of them processes each reading, and none is lost if a consumer dies."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Stack, eventually
from ledger import PROCESSED, Ledger, NewStack, NotingStack, Publisher, producers_sent

CONSUMERS = ("consumer", "consumer-2", "consumer-3")


@pytest.fixture(scope="module")
def shared_stack(new_shared_stack: NewStack) -> NotingStack:
    """Three consumers, and a producer that stays silent."""
    stack = new_shared_stack(NotingStack, CONSUMERS="3", DEVICES="1", INTERVAL_SECONDS="86400")
    stack.up()
    return stack


@pytest.fixture
def publisher(shared_stack: NotingStack) -> Iterator[Publisher]:
    publisher = Publisher(shared_stack)
    yield publisher
    publisher.close()


def shares(publisher: Publisher) -> list[int]:
    """The number of the readings that each consumer has processed."""
    sent, stack = set(publisher.ledger.sent), publisher.ledger.stack
    assert isinstance(stack, NotingStack)
    logs = [stack.runtime.log_text(name) for name in CONSUMERS]
    return [len(sent & set(PROCESSED.findall(log))) for log in logs]


def test_three_consumers_share_300_readings(shared_stack: NotingStack, publisher: Publisher) -> None:
    publisher.send(300)
    publisher.ledger.settle()
    # Counted from the consumers' logs, which are written after echo's notes.
    eventually(lambda: sum(shares(publisher)) == 300)
    print(f"shares {shares(publisher)}")
    assert publisher.ledger.twice() == 0
    assert min(shares(publisher)) > 0
    healthy = {name for name, state, _ in shared_stack.runtime.states() if state == "healthy"}
    assert healthy.issuperset(CONSUMERS)


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_one_of_three_is_ended_with_readings_under_way(
    shared_stack: NotingStack, publisher: Publisher, sign: signal.Signals
) -> None:
    pid = shared_stack.pid("consumer-2")
    shared_stack.stop_part("echo")  # so that no reading is finished
    publisher.send(500)
    os.kill(pid, sign)
    eventually(lambda: shared_stack.pid("consumer-2") not in (0, pid))
    shared_stack.start_part("echo")
    publisher.ledger.settle()
    print(f"shares {shares(publisher)}")
    assert not publisher.ledger.dead_lettered()
    assert publisher.ledger.twice() == 0
    assert min(shares(publisher)) > 0


def test_readings_wait_for_the_one_that_is_away(shared_stack: NotingStack, publisher: Publisher) -> None:
    shared_stack.stop_part("consumer-3")
    publisher.send(300)
    eventually(lambda: sum(shares(publisher)) >= 200)
    assert shares(publisher)[2] == 0
    shared_stack.start_part("consumer-3")
    publisher.ledger.settle()
    print(f"shares {shares(publisher)}")
    assert publisher.ledger.twice() == 0


def test_one_that_leaves_and_is_told_to_stop_loses_nothing(
    shared_stack: NotingStack, publisher: Publisher, tmp_path: Path
) -> None:
    shared_stack.stop_part("echo")
    shared_stack.stop_part("consumer-3")
    publisher.send(300)
    described = json.loads((shared_stack.settings.run_dir / "parts" / "consumer-3.json").read_text())
    log = tmp_path / "log"
    with log.open("w") as errors:
        command = [*described["command"], "--leave", "consumer-3"]
        process = subprocess.Popen(command, env=described["environment"], stderr=errors)
    eventually(lambda: "unsubscribing; " in log.read_text())
    process.terminate()
    assert process.wait(30) == 1
    assert "the session of consumer-3 goes on, with what it holds" in log.read_text()
    for part in ("echo", "consumer-3"):
        shared_stack.start_part(part)
    publisher.ledger.settle()
    eventually(lambda: shares(publisher)[2] == 100)
    assert publisher.ledger.twice() == 0


def test_the_broker_is_started_again_under_two_consumers(new_stack: NewStack) -> None:
    stack = new_stack(NotingStack, CONSUMERS="2", DEVICES="10", INTERVAL_SECONDS="0.2")
    stack.up()
    ledger = Ledger(stack)
    eventually(lambda: len(ledger.processed()) > 50)
    stack.stop_part("mosquitto")
    for name in CONSUMERS[:2]:
        stack.stop_part(name)
    stack.start_part("mosquitto")
    # Mosquitto has restored their sessions, but not their shared subscriptions.
    eventually(lambda: "nobody is subscribed" in stack.runtime.log_text("producer"), 60)
    for name in CONSUMERS[:2]:
        stack.start_part(name)
    before = len(ledger.processed())
    eventually(lambda: len(ledger.processed()) > before + 200)
    stack.stop_part("producer")
    sent = producers_sent(stack)
    eventually(lambda: len(ledger.processed()) >= sent)
    twice = sum(count > 1 for count in ledger.processed().values())
    print(f"sent {sent}, processed {len(ledger.processed())}, twice {twice}")
    assert len(ledger.processed()) == sent
    assert not ledger.dead_lettered()
    stack.runtime.down()


def with_one(stack: Stack) -> NotingStack:
    """The same stack with one consumer."""
    return NotingStack(stack.settings.run_dir, **stack.values | {"CONSUMERS": "1"})


def test_from_three_consumers_to_one_loses_nothing(shared_stack: NotingStack, publisher: Publisher) -> None:
    """Runs last, because it leaves the stack with one consumer."""
    shared_stack.stop_part("echo")
    publisher.send(900)  # more than the broker sends ahead, so each session holds some
    ledger = publisher.ledger
    logs = "".join(map(shared_stack.runtime.log_text, CONSUMERS))
    assert not set(PROCESSED.findall(logs)) & set(ledger.sent)
    one = with_one(shared_stack)
    one.up()
    ledger.stack = one
    ledger.settle()
    left = len(set(ledger.sent) & set(PROCESSED.findall(one.runtime.log_text("leave"))))
    print(f"processed while leaving {left}")
    assert left == 600
    assert ledger.twice() == 0
    assert not ledger.dead_lettered()

    # All new readings go to the remaining consumer, and no other session exists.
    later = Publisher(one)
    later.send(100)
    later.ledger.settle()
    later.close()
    one.up()
    assert one.runtime.log_text("leave").count("unsubscribing; ") == 2
    one.runtime.down()


def test_a_consumer_keeps_to_one_core_if_it_is_told_to(new_stack: NewStack) -> None:
    stack = new_stack(CPU_AFFINITY="auto")
    stack.up()
    threads = [int(task.name) for task in Path(f"/proc/{stack.pid('consumer')}/task").iterdir()]
    cores = set(map(frozenset, map(os.sched_getaffinity, threads)))
    assert len(threads) > 4
    assert len(cores) == 1
    assert len(cores.pop()) == 1
