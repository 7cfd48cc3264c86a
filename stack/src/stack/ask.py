"""HTTP requests to servers on this machine: the backends, and the Collector's metrics."""

from typing import Any

import requests

from stack.errors import StackError
from stack.settings import BACKENDS


def ask(who: str, url: str, *, method: str = "GET", timeout_seconds: float = 10.0, **request: Any) -> requests.Response:
    """Sends a request and returns the answer.

    Args:
        who: The name of the server, for error messages.
        url: The URL.
        method: The HTTP method.
        timeout_seconds: How long to wait for the answer.
        request: More arguments for ``requests.request``.

    Raises:
        StackError: If there is no answer.
    """
    try:
        return requests.request(method, url, timeout=timeout_seconds, **request)
    except requests.RequestException:
        raise _silent(who, url) from None


def ask_json(who: str, url: str, **request: Any) -> Any:
    """The JSON in the answer to a request, or None if it is not found; arguments as for ``ask``.

    Raises:
        StackError: If there is no answer, or the answer is not JSON.
    """
    answer = ask(who, url, **request)
    if answer.status_code == requests.codes.not_found:
        return None
    try:
        return answer.json()
    except requests.JSONDecodeError:
        raise _silent(who, url) from None


def _silent(who: str, url: str) -> StackError:
    return StackError(f"{who} does not answer at {url}{'; is it in BACKENDS?' if who in BACKENDS else ''}")
