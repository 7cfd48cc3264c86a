"""Under a steady load, the memory of the services does not grow, and nothing is lost."""

import psutil
import pytest

from harness import eventually
from ledger import Ledger, NewStack, NotingStack, producers_sent

SERVICES = ("producer", "consumer", "echo")
# Numbers of readings, at a hundred a second.
WARM_UP, LOAD = 3_000, 15_000
# Bytes per service: allocators keep some of the memory that a busy second needed.
MOST_GROWTH = 12 * 2**20


@pytest.mark.long
@pytest.mark.timeout(600)
def test_three_minutes_of_load(new_stack: NewStack) -> None:
    stack = new_stack(NotingStack, DEVICES="100", INTERVAL_SECONDS="1")
    stack.up()
    ledger = Ledger(stack)

    def resident() -> dict[str, int]:
        return {name: psutil.Process(stack.pid(name)).memory_info().rss for name in SERVICES}

    eventually(lambda: len(ledger.taken()) > WARM_UP, 120)
    before = resident()
    eventually(lambda: len(ledger.taken()) > WARM_UP + LOAD, 360)
    grown = {name: after - before[name] for name, after in resident().items()}
    print({name: f"{before[name] / 2**20:.0f} MiB + {growth / 2**20:.1f}" for name, growth in grown.items()})
    assert max(grown.values()) < MOST_GROWTH, grown
    stack.stop_part("producer")
    eventually(lambda: len(ledger.processed()) >= producers_sent(stack))
    assert len(ledger.processed()) == producers_sent(stack)
    assert not ledger.dead_lettered()
    ledger.close()
