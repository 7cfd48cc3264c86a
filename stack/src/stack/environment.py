"""The variables that each part gets, and the check that it accepts them."""

import os
import sys
from collections.abc import Iterable, Mapping

from dotenv import dotenv_values

from service import refusals
from stack.otel import OtelSettings
from stack.part import Part
from stack.settings import ROOT

# The system's variables that each part gets. Upper and lower case count as equal: proxies are written in either.
SYSTEM_VARIABLES = frozenset(
    {"PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR"}
    | {"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}
    | {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"}
)
# The images of the services set this too. With a heap for each thread, glibc keeps twice the memory after a flood.
PROCESS_DEFAULTS = {"MALLOC_ARENA_MAX": "1"}
TELEMETRY_DEFAULTS = {
    # Milliseconds. The specification's defaults are 5 s for spans and 60 s for metrics; here somebody is watching.
    "OTEL_BSP_SCHEDULE_DELAY": "500",
    "OTEL_BLRP_SCHEDULE_DELAY": "500",
    "OTEL_METRIC_EXPORT_INTERVAL": "10000",
    # For a Collector that is away: the spans that wait, 36 MiB for 10,000, and the seconds of retries.
    "OTEL_BSP_MAX_QUEUE_SIZE": "8192",
    "OTEL_EXPORTER_OTLP_TIMEOUT": "60",
}


def given_variables() -> dict[str, str]:
    """The variables that the user has set; those of the environment override those in ``.env``."""
    return {**{name: value for name, value in dotenv_values(ROOT / ".env").items() if value}, **os.environ}


def environment_of(part: Part) -> dict[str, str]:
    """The variables of a part: its own, and those from the environment and ``.env`` that it reads."""
    given = given_variables()
    wanted = SYSTEM_VARIABLES | part.reads | part.defaults.keys()
    read = {name: value for name, value in given.items() if name.upper() in wanted}
    if "OTEL_SERVICE_NAME" not in part.environment:
        return {**part.defaults, **read, **part.environment}
    of_sdk = {name: value for name, value in given.items() if name.startswith("OTEL_")}
    return {**PROCESS_DEFAULTS, **TELEMETRY_DEFAULTS, **part.defaults, **of_sdk, **read, **part.environment}


def system_environment() -> dict[str, str]:
    """The variables that every process gets."""
    return {name: value for name, value in os.environ.items() if name.upper() in SYSTEM_VARIABLES}


def settings_among(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables without those of the system, which differ from one terminal to the next."""
    return {name: value for name, value in environment.items() if name.upper() not in SYSTEM_VARIABLES}


def check_settings(parts: Iterable[Part]) -> None:
    """Ends the program if a part would refuse its settings, with one line for each wrong variable.

    Values that the stack itself gives to a part are not checked: some are made only before the part starts.

    Raises:
        SystemExit: With exit code 2, after the lines were written to standard error.
    """
    wrong: dict[str, str] = {}
    for part in parts:
        given = environment_of(part)
        traced = [OtelSettings] if "OTEL_SERVICE_NAME" in part.environment else []
        for settings in filter(None, (part.settings, *traced)):
            refused = refusals(settings, given)
            wrong |= {name: line for name, line in refused.items() if name not in part.environment}
    if wrong:
        sys.stderr.writelines(f"{line}\n" for line in wrong.values())
        raise SystemExit(2)
