"""HTTP requests to what listens on this machine: the backends, and the Collector's metrics."""

from typing import Any

import requests

from stack.errors import StackError
from stack.settings import BACKENDS


def ask(who: str, url: str, *, method: str = "GET", timeout_seconds: float = 10.0, **request: Any) -> requests.Response:
    """The answer to a request.

    Args:
        who: Its name, for the user.
        url: Where it listens.
        method: Of HTTP.
        timeout_seconds: How long to wait for it.
        request: More of it, as ``requests.request`` takes it.

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
        StackError: If there is no answer, or another than JSON.
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
