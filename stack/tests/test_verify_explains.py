"""`make verify` explains from the Collector's log why it delivered nothing."""

import pytest

from stack.settings import Settings
from stack.verify import explain_no_export


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        ("failed to get an oauth2 token", "authentication failed"),
        ("HTTP status code 401", "authentication failed"),
        # The port of a connection is not a status code.
        ("read tcp 127.0.0.1:40124->127.0.0.1:26668: connection reset by peer", "no span of the reading arrived"),
    ],
)
def test_only_a_refusal_is_called_a_failed_authentication(error: str, problem: str) -> None:
    log = f'info\t{{"error": "{error}"}}'
    settings = Settings(_env_file=None)  # pyright: ignore[reportCallIssue] (pydantic-settings has more arguments than fields)
    assert explain_no_export(log, settings).problem.startswith(problem)
