"""What every runtime reports about its parts."""

import pytest

from stack.local import LocalRuntime
from stack.settings import Settings

SAID = "the broker sent a malformed packet, 3 times in a row: nothing gets through: U+0000 in a string"


def test_a_part_that_is_unhealthy_says_why_where_its_log_does(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = LocalRuntime(Settings())
    states = [
        ("consumer", "unhealthy", ""),
        ("producer", "unhealthy", ""),
        ("echo", "stopped", ""),
        ("viewer", "healthy", ""),
    ]
    logs = {"consumer": f"1 ERROR disconnected: {SAID}\n2 INFO more\n", "echo": f"{SAID}\n"}
    monkeypatch.setattr(runtime, "states", lambda: states)
    monkeypatch.setattr(runtime, "log_text", lambda part: logs.get(part, ""))
    assert runtime.away() == {"consumer": f"unhealthy ({SAID})", "producer": "unhealthy", "echo": "stopped"}
