"""What `make verify` makes of the Collector's log when nothing came out of it."""

from subprocess import CompletedProcess

import pytest

from stack.settings import Settings
from stack.verify import explain_no_export


class Logging:
    """A runtime of which only the Collector's log is asked for."""

    def __init__(self, error: str) -> None:
        self._log = f'info\t{{"error": "{error}"}}'

    def log_text(self, part: str) -> str:
        return self._log if part == "collector" else ""

    def states(self) -> list[tuple[str, str, str]]:
        return []

    def run_once(self, timeout_seconds: float) -> CompletedProcess[str]:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        ("failed to get an oauth2 token", "authentication failed"),
        ("HTTP status code 401", "authentication failed"),
        # The port of a connection is no status code.
        ("read tcp 127.0.0.1:40124->127.0.0.1:26668: connection reset by peer", "no span of the reading arrived"),
    ],
)
def test_only_a_refusal_is_called_a_failed_authentication(error: str, problem: str) -> None:
    assert explain_no_export(Logging(error), Settings(_env_file=None)).problem.startswith(problem)  # pyright: ignore[reportCallIssue] (pydantic-settings has more arguments than fields)
