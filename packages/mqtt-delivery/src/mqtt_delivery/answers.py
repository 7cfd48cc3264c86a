"""What an HTTP answer means for the message that it answers."""

from __future__ import annotations

import json
from typing import Protocol

from mqtt_delivery.message import Reject, Retry

REQUEST_TIMEOUT, TOO_MANY_REQUESTS = 408, 429


class Answer(Protocol):
    """An HTTP answer, such as one of requests or httpx."""

    @property
    def status_code(self) -> int:
        """The status code, such as 200."""
        ...

    @property
    def content(self) -> bytes:
        """The body."""
        ...

    @property
    def text(self) -> str:
        """The body, decoded."""
        ...


def check_answer(answer: Answer, name: str = "the server", *, is_json: bool = False) -> None:
    """Raises unless the answer is a success.

    Args:
        answer: To a request that a handler made.
        name: Who answered, for people.
        is_json: Whether the body of a success must be JSON, which a proxy's error page is not.

    Raises:
        Retry: For 408, 429 and 5xx: the server may succeed later (RFC 9110, 15.5.9 and 15.6; RFC 6585, 4). Also for a
            body that must be JSON and is not.
        Reject: For any other status of 300 or more: the server will never succeed. Contains the server's reason, if
            there is one.
    """
    status = answer.status_code
    if status in (REQUEST_TIMEOUT, TOO_MANY_REQUESTS) or status >= 500:
        raise Retry(f"{name} answered {status}", str(status))
    if status >= 300:
        raise Reject(f"{name} answered {status}: {answer.text[:500]}", str(status))
    if is_json:
        try:
            json.loads(answer.content)
        except (ValueError, RecursionError):
            raise Retry(f"{name} answered {status}, but no JSON", "no_json") from None
