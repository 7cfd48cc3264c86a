"""What a person is told when a command fails."""

import sys

import pytest

from stack import __main__
from stack.errors import StackError


def test_an_error_is_printed_as_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # The end of a log may look like rich's markup.
    def fail(*_: object) -> None:
        raise StackError("echo does not become healthy: [/] [bold] [0;31m")

    monkeypatch.setattr(__main__, "up", fail)
    monkeypatch.setattr(sys, "argv", ["stack", "up"])
    assert __main__.main() == 1
    assert capsys.readouterr().err == "error: echo does not become healthy: [/] [bold] [0;31m\n"
