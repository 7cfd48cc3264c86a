"""Finds variables that are missing somewhere: what a part reads, what its container gets, what is documented."""

import re
from importlib import import_module
from typing import Any

import pytest
from pydantic import SecretStr

from stack import build
from stack.parts import local_parts, variables
from stack.settings import ROOT, Settings, text_of
from test_docker import SERVICES

SETTINGS = Settings(
    _env_file=None,  # pyright: ignore[reportCallIssue] (pydantic-settings has more arguments than fields)
    mqtt_tls=True,
    tail_sampling_percentage=5,
    backends=("zipkin", "prometheus", "azuremonitor"),
    applicationinsights_connection_string=SecretStr("InstrumentationKey=0"),
)
PARTS = {part.name: part for part in local_parts(SETTINGS, build.paths())}
ENV_EXAMPLE = dict(re.findall(r"^#?([A-Z][A-Z0-9_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.M))
# Addresses and paths, which differ between the runtimes.
OF_A_RUNTIME = re.compile(
    r"_(PORT|HOST|BIND|URL|ENDPOINT|FILE|STATE|DATA|STORAGE|CERTIFICATES)$|^(OTELCOL|MQTT_CLIENT_ID|CONSUMER_ORDINAL|QUERY_PORT)$"
)
# Set by `start.sh` from COLLECTOR_EXTRAS.
OF_START = {"COLLECTOR_EXTENSIONS", "COLLECTOR_TRACE_RECEIVERS"}
# For tests and special cases; not settings of the stack.
NOT_SETTINGS = {"TAIL_SAMPLING_WAIT", "TOPIC_FILTER", "ISSUER_AUDIENCE", "JAVA_HOME", "JAVA_TOOL_OPTIONS"} | OF_START


def passed_on(container: str) -> set[str]:
    """The variables of a container that its user may set."""
    given = SERVICES[container].get("environment", {})
    return {name for name, value in given.items() if value is None or f"${{{name}" in str(value)}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_what_a_part_reads_reaches_its_container_and_nothing_else_does(part: Any) -> None:
    reads = {
        name for name in part.reads if not name.startswith("OTEL_") and not OF_A_RUNTIME.search(name)
    } - NOT_SETTINGS
    gets = {name for name in passed_on(part.name) if not name.startswith("OTEL_") and not OF_A_RUNTIME.search(name)}
    assert gets == reads


def test_the_collector_s_container_knows_where_each_backend_is() -> None:
    endpoints = {name for name in PARTS["collector"].reads if name.endswith("_ENDPOINT")}
    assert endpoints <= SERVICES["collector"]["environment"].keys()


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_what_a_part_reads_is_documented_or_the_stack_s_own(part: Any) -> None:
    unknown = part.reads - ENV_EXAMPLE.keys() - variables(SETTINGS).keys() - part.environment.keys() - NOT_SETTINGS
    assert {name for name in unknown if not OF_A_RUNTIME.search(name)} == set()


def test_what_is_documented_is_read() -> None:
    read = {name for part in PARTS.values() for name in part.reads} | {name.upper() for name in Settings.model_fields}
    # Read by Compose, by the build, and by OpenTelemetry in every service.
    read |= {
        "COMPOSE_PROFILES",
        "COMPOSE_FILE",
        "BROKER_FILES",
        "OTELCOL",
        *re.findall(r"OTEL_\w+", (ROOT / "docker-compose.yml").read_text()),
    }
    assert read >= ENV_EXAMPLE.keys()


def test_every_setting_is_documented_with_its_default() -> None:
    for name, field in Settings.model_fields.items():
        assert name.upper() in ENV_EXAMPLE, f"{name.upper()} is not in .env.example"
        if field.default is not None and name != "run_dir":
            assert ENV_EXAMPLE[name.upper()] == text_of(field.default)


FOLDERS = {"producer": "producer", "consumer": "consumer", "echo": "echo", "scout_local": "backends/scout-local"}
# Every service has these; the packages' READMEs document them.
OF_EVERY_SERVICE = {"MQTT_TLS", "MQTT_CA_FILE", "MQTT_CERTIFICATE_FILE", "MQTT_KEY_FILE", "MQTT_LOGIN"}
OF_EVERY_SERVICE |= {"MQTT_TRANSPORT", "MQTT_WEBSOCKET_PATH"}


def defaults_of(module: str) -> dict[str, str]:
    """The variables of a service and their defaults, as text; those without one are empty."""
    settings = import_module(f"{module}.settings").Settings
    return {
        name.upper(): "" if field.default is None else text_of(field.default)
        for name, field in settings.model_fields.items()
    }


@pytest.mark.parametrize("module", FOLDERS)
def test_the_readme_of_a_service_has_its_variables_and_their_defaults(module: str) -> None:
    rows = re.findall(r"^\| (`[A-Z].*?) \| (.*?) \|", (ROOT / FOLDERS[module] / "README.md").read_text(), re.M)
    listed = [(re.findall(r"`([A-Z][A-Z0-9_]+)`", names), values.split(", ")) for names, values in rows]
    written = {name: value for names, values in listed for name, value in zip(names, values, strict=False)}
    expected = defaults_of(module)
    assert expected.keys() - OF_EVERY_SERVICE == written.keys() - {"OTEL_"}
    assert {name: value for name, value in written.items() if expected[name] not in ("", value)} == {}


@pytest.mark.parametrize("module", FOLDERS)
def test_what_is_documented_for_the_stack_is_the_default_of_the_service(module: str) -> None:
    shared = {name: value for name, value in defaults_of(module).items() if name in ENV_EXAMPLE and value}
    assert {name: ENV_EXAMPLE[name] for name in shared} == shared
