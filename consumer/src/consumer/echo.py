"""The way to echo: pooled connections, and patience while it is away."""

import json
import threading

import requests
from opentelemetry.trace import get_current_span
from requests.adapters import HTTPAdapter
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_delay,
    stop_when_event_set,
    wait_random_exponential,
)

from consumer.settings import Settings


class EchoError(Exception):
    """Echo did not take a reading.

    Args:
        error_type: ``error.type`` of the process span: the status code, or the exception's name.
        message: What happened.
    """

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type


class UnavailableError(EchoError):
    """Echo did not do its work; it may later."""


class RefusedError(EchoError):
    """Echo does not want this reading, now or later."""


def _note_retry(state: RetryCallState) -> None:
    """Says on the process span that an attempt failed, and why."""
    error = state.outcome.exception() if state.outcome else None
    attributes = {"echo.retry.attempt": state.attempt_number, "echo.retry.reason": str(error)}
    get_current_span().add_event("echo.retry", attributes)


class Echo:
    """Sends readings to echo.

    Args:
        settings: Where it is, and how long to wait for it.
        stop: Ends the waiting.
    """

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        self._url = str(settings.echo_url)
        self._timeout_seconds = settings.echo_timeout_seconds
        self._http = requests.Session()
        # Once: looking for proxies and certificates in the environment takes a third of the time of a request.
        environment = self._http.merge_environment_settings(self._url, {}, None, None, None)
        self._http.proxies, self._http.verify = environment["proxies"], environment["verify"]
        self._http.trust_env = False
        for scheme in ("http://", "https://"):
            self._http.mount(scheme, HTTPAdapter(pool_maxsize=settings.workers))
        self._patiently = Retrying(
            retry=retry_if_exception_type(UnavailableError),
            wait=wait_random_exponential(multiplier=0.2, max=5),
            stop=stop_after_delay(settings.retry_seconds) | stop_when_event_set(stop),
            sleep=sleep_using_event(stop),
            before_sleep=_note_retry,
            reraise=True,
        )

    def send(self, payload: bytes, idempotency_key: str | None) -> None:
        """Sends a reading, or a JSON array of them, until echo has taken it.

        Args:
            payload: The JSON to send.
            idempotency_key: The same for each attempt, so that echo can tell a repetition.

        Raises:
            RefusedError: If echo refuses it (4xx).
            UnavailableError: If echo is still away, failing or talking nonsense when patience is at its end.
        """
        self._patiently(self._post, payload, idempotency_key)

    def _post(self, payload: bytes, idempotency_key: str | None) -> None:
        headers = {"Content-Type": "application/json"}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        try:
            response = self._http.post(self._url, data=payload, headers=headers, timeout=self._timeout_seconds)
        except requests.RequestException as error:
            raise UnavailableError(type(error).__qualname__, f"echo did not answer: {error}") from error
        status = response.status_code
        if status in (408, 429) or status >= 500:
            raise UnavailableError(str(status), f"echo answered {status}")
        if not response.ok:
            raise RefusedError(str(status), f"echo answered {status}: {response.text[:500]}")
        try:
            json.loads(response.content)
        except (ValueError, RecursionError):
            raise UnavailableError("no_json", f"echo answered {status}, but no JSON") from None
