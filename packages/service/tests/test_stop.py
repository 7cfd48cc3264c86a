import os
import signal
import threading
from collections.abc import Iterator

import pytest

from service import StopSignal


@pytest.fixture
def stop() -> Iterator[StopSignal]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    hook = threading.excepthook
    yield StopSignal()
    threading.excepthook = hook
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_without_a_failure(stop: StopSignal, number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    assert stop.wait(5)
    assert stop.exit_code == 0


def test_a_thread_that_dies_stops_with_a_failure(stop: StopSignal, caplog: pytest.LogCaptureFixture) -> None:
    def die() -> None:
        raise RuntimeError("a callback failed")

    threading.Thread(target=die).start()
    assert stop.wait(5)
    assert stop.exit_code == 1
    assert "a callback failed" in caplog.text
