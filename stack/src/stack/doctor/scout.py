"""Checks the path from the Collector to Scout: the four values, the token endpoint, the gateway, the clocks."""

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import requests

from stack.doctor.result import Result
from stack.parts import scout_values
from stack.runtime import Runtime
from stack.settings import SCOUT_VARIABLES, Settings

TIMEOUT_SECONDS = 4.0
# A Date header has whole seconds, and the Collector renews a token 10 s before it expires.
CLOCK_SECONDS = 5.0
PLACEHOLDER = re.compile(r"[<>]|\.\.\.|\byour|change.?me|placeholder|x{3,}|\btodo\b|\bexample\.(com|org|net)\b", re.I)


@dataclass(frozen=True)
class Skew:
    """The difference between another machine's clock and this one's."""

    where: str
    seconds: float


def examine(runtime: Runtime, settings: Settings) -> Iterator[Result]:
    """Checks with a token request and an empty export; neither changes anything."""
    yield from values(runtime, settings)
    skews: list[Skew] = []
    given = scout_values(settings)
    result, token = ask_for_token(given, skews)
    yield result
    if token:
        yield send_nothing(given, token, skews)
    yield clocks(skews)


def values(runtime: Runtime, settings: Settings) -> Iterator[Result]:
    """Checks that the four values can be right, and that the Collector has them."""
    title = "SCOUT_* values"
    given = scout_values(settings)
    running = runtime.environment("collector")
    # Containers use other addresses for the local Scout.
    compared = SCOUT_VARIABLES[:2] if settings.local_scout else SCOUT_VARIABLES
    placeholders = [name for name in SCOUT_VARIABLES if not settings.local_scout and PLACEHOLDER.search(given[name])]
    changed = [name for name in compared if running and running.get(name) != given[name]]
    if placeholders:
        yield Result(
            title,
            f"{', '.join(placeholders)} look like placeholders.",
            "fill in the values from Scout, then `make up`.",
        )
    if changed:
        yield Result(
            title,
            f"the Collector runs with values that differ from those set now: {', '.join(changed)}.",
            "`make up` restarts it with those.",
        )
    if not placeholders and not changed:
        yield Result(
            title, "none is set: the local Scout runs instead." if settings.local_scout else "all four are set."
        )


def ask_for_token(given: dict[str, str], skews: list[Skew]) -> tuple[Result, str | None]:
    """Requests a token as the Collector does: client credentials in the header, or else in the form."""
    title = "token endpoint"
    url = given["SCOUT_TOKEN_URL"]
    login = (given["SCOUT_CLIENT_ID"], given["SCOUT_CLIENT_SECRET"])
    form = {"grant_type": "client_credentials", "audience": "b14collector"}
    try:
        answer = _post(url, skews, data=form, auth=login)
        if answer.status_code in (400, 401):
            second = _post(url, skews, data=form | {"client_id": login[0], "client_secret": login[1]})
            answer = second if second.ok else answer
    except requests.RequestException as error:
        fix = "is SCOUT_TOKEN_URL right, and can this network reach it? For the local Scout: `make ps`."
        return Result(title, f"{url} cannot be reached: {_reason(error)}.", fix), None
    said = _json(answer)
    token, refusal = said.get("access_token"), said.get("error")
    if answer.ok and isinstance(token, str):
        return Result(title, f"{url} grants a token."), token
    if refusal == "invalid_client" or answer.status_code == 401:
        fix = "copy SCOUT_CLIENT_ID and SCOUT_CLIENT_SECRET again, then `make up`."
        return Result(title, f"{url} does not know this client id, or the secret is wrong (invalid_client).", fix), None
    if isinstance(refusal, str):
        return Result(
            title, f"{url} refuses: {refusal[:60]!r}.", "ask the people who run Scout what this client may do."
        ), None
    return Result(title, f"{url} answers {answer.status_code} without a token.", "is SCOUT_TOKEN_URL right?"), None


def send_nothing(given: dict[str, str], token: str, skews: list[Skew]) -> Result:
    """Sends an export without spans, with the token."""
    title = "gateway"
    url = f"{given['SCOUT_OTLP_ENDPOINT']}/v1/traces"
    try:
        answer = _post(url, skews, json={"resourceSpans": []}, headers={"Authorization": f"Bearer {token}"})
    except requests.RequestException as error:
        fix = "is SCOUT_OTLP_ENDPOINT right, and can this network reach it? For the local Scout: `make ps`."
        return Result(title, f"{url} cannot be reached: {_reason(error)}.", fix)
    if answer.ok:
        return Result(title, f"{url} accepts the token.")
    if answer.status_code in (401, 403):
        fix = "do SCOUT_TOKEN_URL and SCOUT_OTLP_ENDPOINT belong together, and are the clocks right?"
        return Result(title, f"{url} refuses the token ({answer.status_code}).", fix)
    fix = "is SCOUT_OTLP_ENDPOINT the base address, without /v1/traces?"
    return Result(title, f"{url} answers {answer.status_code} to an export.", fix)


def clocks(skews: list[Skew]) -> Result:
    """Checks that this machine's clock agrees with those of the machines that check its tokens."""
    wrong = [skew for skew in skews if abs(skew.seconds) > CLOCK_SECONDS]
    if not skews:
        return Result("clock", "no answer had a Date header.")
    if not wrong:
        return Result("clock", "this machine's clock agrees with Scout's.")
    skew = max(wrong, key=lambda skew: abs(skew.seconds))
    return Result(
        "clock",
        f"this machine's clock is {abs(skew.seconds):.0f} s {'behind' if skew.seconds > 0 else 'ahead of'} "
        f"that of {skew.where}: tokens look expired, and spans have wrong times.",
        "set the clock by NTP, here or there.",
    )


def _post(url: str, skews: list[Skew], **options: object) -> requests.Response:
    answer = requests.post(url, timeout=TIMEOUT_SECONDS, allow_redirects=False, **options)  # pyright: ignore[reportArgumentType] (passed on as they are)
    # Some servers send no Date, and some send a wrong one.
    with suppress(KeyError, ValueError):
        skews.append(Skew(url, parsedate_to_datetime(answer.headers["Date"]).timestamp() - time.time()))
    return answer


def _json(answer: requests.Response) -> dict[str, object]:
    try:
        said = answer.json()
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _reason(error: requests.RequestException) -> str:
    if isinstance(error, requests.Timeout):
        return f"no answer within {TIMEOUT_SECONDS:.0f} s"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not trusted, or it does not speak TLS"
    return "nothing listens there, or the name is unknown"
