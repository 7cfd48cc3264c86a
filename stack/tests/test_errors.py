"""The messages for a person when a command fails."""

import pytest

from stack.console import exit_code
from stack.errors import StackError


def test_an_error_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    # The end of a log may look like rich's markup.
    def fail() -> None:
        raise StackError("echo does not become healthy: [/] [bold] [0;31m")

    assert exit_code(fail) == 1
    assert capsys.readouterr().err == "error: echo does not become healthy: [/] [bold] [0;31m\n"


def test_a_file_of_another_user_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise PermissionError(13, "Permission denied", "/elsewhere/.env")

    assert exit_code(fail) == 1
    assert capsys.readouterr().err == "error: this user may not read or write /elsewhere/.env\n"
