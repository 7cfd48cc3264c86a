"""The parts of the local runtime: what each runs, which variables it reads, and its health check."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from string import Template
from typing import Any

from stack.backends import local_backends
from stack.build import collector_for, require_command, search_path
from stack.part import Part, answers, beats, local_url
from stack.services import broker_users, new_services
from stack.settings import ROOT, SCOUT_VARIABLES, Settings

MOSQUITTO = ROOT / "mosquitto"
COLLECTOR = ROOT / "collector"
GATEWAY = ROOT / "backends" / "scout-local" / "gateway.yaml"


def variables(settings: Settings) -> dict[str, str]:
    """The variables to which the stack gives a value: the settings, and the parts' addresses and files.

    A part gets those that it reads.
    """
    state = settings.run_dir / "mosquitto"
    # For another broker, the user sets the authority.
    authority = {"MQTT_CA_FILE": str(settings.tls_folder / "ca.crt")} if settings.own_broker else {}
    return {
        **settings.variables(),
        **broker_users(new_services()),
        **scout_values(settings),
        "OTEL_EXPORTER_OTLP_ENDPOINT": local_url(settings.otlp_port),
        "ECHO_URL": local_url(settings.echo_port, "/echo"),
        "ISSUER_URL": local_url(settings.issuer_port),
        "VIEWER_OTLP_ENDPOINT": local_url(settings.viewer_otlp_http_port),
        "ZIPKIN_ENDPOINT": local_url(settings.zipkin_port, "/api/v2/spans"),
        "ISSUER_KEY_FILE": str(settings.run_dir / "issuer-key.pem"),
        "MQTT_CERTIFICATES": str(settings.tls_folder),
        **authority,
        "MQTT_DEVICE_CERTIFICATES": str(settings.tls_folder / "devices"),
        "COLLECTOR_STORAGE": str(settings.run_dir / "collector"),
        "MOSQUITTO_STATE": str(state),
        "MOSQUITTO_DATA": str(state / "data"),
    }


def scout_values(settings: Settings) -> dict[str, str]:
    """The four values that decide to which Scout the Collector sends."""
    if not settings.local_scout:
        given = settings.variables()
        given["SCOUT_OTLP_ENDPOINT"] = given["SCOUT_OTLP_ENDPOINT"].rstrip("/")
        return {name: given[name] for name in SCOUT_VARIABLES}
    return {
        "SCOUT_CLIENT_ID": settings.local_scout_client_id,
        "SCOUT_CLIENT_SECRET": settings.local_scout_client_secret.get_secret_value(),
        "SCOUT_TOKEN_URL": local_url(settings.issuer_port, "/oauth2/token"),
        "SCOUT_OTLP_ENDPOINT": local_url(settings.gateway_port),
    }


def program(name: str, module: str, wave: int, healthy: Callable[[], bool], traced_as: str = "", **more: Any) -> Part:
    """One of our programs: it reads the variables that its settings declare, and exports telemetry if it is traced."""
    settings = import_module(f"{module}.settings").Settings
    reads = frozenset(map(str.upper, settings.model_fields))
    environment: dict[str, str] = more.pop("environment", {})
    if traced_as:
        reads |= {"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_PROTOCOL"}
        environment = {"OTEL_SERVICE_NAME": traced_as, **environment}
    command = [sys.executable, "-m", module]
    return Part(name, command, healthy, wave, reads=reads, settings=settings, environment=environment, **more)


def named_in(*files: Path) -> frozenset[str]:
    """The variables in scripts and configurations, outside of comments, as ``$NAME`` or ``${env:NAME}``."""
    text = re.sub(r"(?<!\S)#.*", "", "".join(file.read_text() for file in files))
    return frozenset(re.findall(r"\$\{?(?:env:)?([A-Z][A-Z0-9_]+)", text))


def consumer_names(count: int) -> list[str]:
    """The names of the consumers, which are also their client ids, so that each finds its session after a restart."""
    return ["consumer", *(f"consumer-{number}" for number in range(2, count + 1))]


def partition_name(number: object = "{partition}") -> str:
    """The name of a partition's session, whichever consumer owns it; the consumers fill in the number."""
    return f"consumer-p{number}"


def consumer_login(settings: Settings, name: str) -> tuple[str, str]:
    """A consumer's client id and user; at the stack's own broker each has its own user, from ``mosquitto/acl``."""
    ending = name.removeprefix("consumer")
    return settings.mqtt_consumer_client_id + ending, settings.mqtt_consumer_username + ending * settings.own_broker


def local_parts(settings: Settings, binaries: Mapping[str, Path]) -> list[Part]:
    """All parts of the local runtime, in the order of their start."""

    def client(name: str, module: str, wave: int, traced_as: str, **more: Any) -> Part:
        """A traced service that touches a file while it is connected to the broker."""
        beat = settings.run_dir / f"{name}.healthy"
        # Without containers, several services cannot listen on the same health port.
        environment = {"HEALTH_FILE": str(beat), "HEALTH_PORT": "", **more.pop("environment", {})}
        return program(name, module, wave, beats(beat), traced_as, environment=environment, **more)

    def consumer(ordinal: int, name: str) -> Part:
        client_id, username = consumer_login(settings, partition_name() if settings.partitions else name)
        environment = {"MQTT_CLIENT_ID": client_id, "MQTT_CONSUMER_USERNAME": username}
        environment["CONSUMER_ORDINAL"] = str(ordinal)
        return client(name, "consumer", 4, traced_as="consumer", environment=environment)

    parts = [
        *([_mosquitto(settings)] if settings.own_broker else []),
        Part(
            "collector",
            [str(COLLECTOR / "start.sh")],
            healthy=answers(local_url(settings.collector_health_port)),
            wave=3,
            address=f"OTLP gRPC 127.0.0.1:{settings.otlp_grpc_port}, HTTP 127.0.0.1:{settings.otlp_http_port}",
            reads=named_in(COLLECTOR / "start.sh", *COLLECTOR.glob("*.yaml"), *COLLECTOR.glob("backends/*.yaml")),
            environment={"OTELCOL": str(binaries[collector_for(settings)])},
        ),
        program(
            "echo",
            "echo",
            4,
            answers(local_url(settings.echo_port, "/healthz")),
            traced_as="echo",
            address=local_url(settings.echo_port, "/docs"),
        ),
        *(consumer(ordinal, name) for ordinal, name in enumerate(consumer_names(settings.consumers))),
        *(
            client(new.name, new.module, 4, traced_as=new.name, defaults=_filled_in(new.defaults, settings))
            for new in new_services()
        ),
        client(
            "producer",
            "producer",
            5,
            traced_as="producer",
            # The client id that mosquitto/acl allows its user; for another broker the producer makes one.
            defaults={"MQTT_PRODUCER_CLIENT_ID": "producer"} if settings.own_broker else {},
        ),
        *local_backends(settings, binaries),
    ]
    if settings.local_scout:
        parts += _local_scout(settings, binaries)
    known = variables(settings)
    whole = [
        replace(part, environment={name: known[name] for name in part.reads & known.keys()} | part.environment)
        for part in parts
    ]
    return sorted(whole, key=lambda part: part.wave)


def _mosquitto(settings: Settings) -> Part:
    users = set(re.findall("@(.+)_USERNAME@", (MOSQUITTO / "acl").read_text()))
    return Part(
        "mosquitto",
        [str(MOSQUITTO / "start.sh")],
        # It logs in with the file that start.sh wrote, so that no password is in a process list.
        healthy=lambda: _broker_delivers(settings.run_dir / "mosquitto"),
        wave=1,
        address=settings.broker_address,
        reads=named_in(MOSQUITTO / "start.sh")
        | {f"{user}_{what}" for user in users for what in ("USERNAME", "PASSWORD")},
        environment={"PATH": search_path()},
    )


def _filled_in(defaults: Mapping[str, str], settings: Settings) -> dict[str, str]:
    return {name: Template(value).substitute(settings.ports()) for name, value in defaults.items()}


def _local_scout(settings: Settings, binaries: Mapping[str, Path]) -> list[Part]:
    return [
        program(
            "issuer",
            "scout_local",
            1,
            answers(local_url(settings.issuer_port, "/healthz")),
            address=local_url(settings.issuer_port),
        ),
        Part(
            "gateway",
            [str(binaries["otelcol-default"]), "--config", str(GATEWAY)],
            healthy=answers(local_url(settings.gateway_health_port)),
            # The gateway asks the issuer for its keys when it starts.
            wave=2,
            address=local_url(settings.gateway_port),
            reads=named_in(GATEWAY),
        ),
        Part(
            "viewer",
            [
                str(binaries["otel-desktop-viewer"]),
                "--open-browser=false",
                *("--host", "127.0.0.1"),
                *("--browser-port", str(settings.viewer_port)),
                *("--grpc", str(settings.viewer_otlp_grpc_port)),
                *("--http", str(settings.viewer_otlp_http_port)),
            ],
            healthy=answers(local_url(settings.viewer_port)),
            wave=1,
            address=local_url(settings.viewer_port),
        ),
    ]


def _broker_delivers(state: Path) -> bool:
    """Tells whether the broker accepts the operator and delivers a message."""
    require_command("mosquitto_rr", "mosquitto-clients")
    environment = {**os.environ, "PATH": search_path(), "XDG_CONFIG_HOME": str(state)}
    command = ["mosquitto_rr", "-t", "health", "-e", "health", "-m", "healthy", "-W", "2"]
    # Compares the output, because it exits with 0 even if the broker refuses it.
    return subprocess.run(command, env=environment, capture_output=True, check=False).stdout == b"healthy\n"
