"""The Docker runtime: the same parts as containers, by docker-compose.yml."""

import json
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from typing_extensions import override

from stack.console import console
from stack.environment import given_variables
from stack.errors import StackError
from stack.images import compose_files
from stack.local import check_ports
from stack.parts import consumer_login
from stack.runtime import Runtime
from stack.settings import OTLP_PORTS, ROOT

# Containers reach these ports through the network of the stack, not through the host.
INTERNAL_PORTS = ("VIEWER_OTLP_GRPC_PORT", "VIEWER_OTLP_HTTP_PORT", "GATEWAY_HEALTH_PORT")

# Files for TLS with another broker; the containers see them at the same paths as this machine.
FILES = ("MQTT_CA_FILE", "MQTT_CERTIFICATE_FILE", "MQTT_KEY_FILE")


def engine_answers() -> bool:
    """Tells whether there is a Docker engine with Compose."""
    command = ["docker", "compose", "ls", "--quiet"]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, timeout=10, check=False).returncode == 0
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False


class DockerRuntime(Runtime):
    """Starts, stops and shows the stack with Docker Compose, which reads ``.env`` itself."""

    name = "docker"

    @override
    def up(self) -> None:
        if not engine_answers():
            raise StackError("no Docker engine with Compose answers; start it, or use RUNTIME=local")
        if not self.running():
            ports = self._settings.ports().items()
            check_ports({name: port for name, port in ports if name not in INTERNAL_PORTS})
        self._check_files()
        files = compose_files()
        started = time.monotonic()
        if self._compose("up", "--detach", "--build", "--wait", more=files).returncode != 0:
            by_tag = "; if an image cannot be fetched by digest, COMPOSE_FILE=docker-compose.yml takes it by tag"
            raise StackError(
                "docker compose could not start the stack; its output is above, and `make logs` shows more"
                + (by_tag if files else "")
            )
        console.print(f"All {len(self.states())} parts are healthy after {time.monotonic() - started:.1f} s.")

    @override
    def end_sessions(self, names: list[str]) -> None:
        if names:
            sessions = ["=".join(consumer_login(self._settings, name)) for name in names]
            command = ("exec", "-T", "consumer", "python", "-m", "consumer", "--leave", *sessions)
            done = self._compose(*command, capture=True)
            if done.returncode != 0:
                raise StackError(f"the session of a consumer that is gone could not be ended:\n{done.stderr[-1000:]}")

    @override
    def down(self) -> None:
        if self.running():
            self._compose("down", "--remove-orphans")

    @override
    def stop(self, part: str) -> None:
        self._compose("stop", part)

    @override
    def states(self) -> list[tuple[str, str, str]]:
        output = self._compose("ps", "--all", "--format", "json", capture=True).stdout
        rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        return [(row["Service"], row.get("Health") or row["State"], _addresses(row)) for row in rows]

    @override
    def logs(self, part: str | None, lines: int, *, follow: bool) -> None:
        self._compose("logs", "--tail", str(lines), *(["--follow"] if follow else []), *([part] if part else []))

    @override
    def log_text(self, part: str) -> str:
        return self._compose("logs", "--no-log-prefix", part, capture=True).stdout

    @override
    def run_once(self, timeout_seconds: float) -> subprocess.CompletedProcess[str]:
        variables = [option for name, value in self._once.items() for option in ("--env", f"{name}={value}")]
        command = ["docker", "compose", "exec", "-T", *variables, "producer", "python", "-m", "producer", "--once"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_seconds, check=False)

    @override
    def environment(self, part: str) -> dict[str, str]:
        containers = self._compose("ps", "--quiet", part, capture=True).stdout.split()
        if not containers:
            return {}
        command = ["docker", "inspect", "--format", "{{json .Config.Env}}", containers[0]]
        lines = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        # A name without "=" is a variable that the image sets and the container unsets.
        return {name: value for name, given, value in (line.partition("=") for line in lines) if given}

    @override
    def authority(self) -> str:
        return self._compose("exec", "-T", "mosquitto", "cat", "/certificates/ca.crt", capture=True).stdout

    @override
    def running(self) -> bool:
        return bool(engine_answers() and self._compose("ps", "--quiet", capture=True).stdout.strip())

    @property
    def _given(self) -> dict[str, str]:
        """The variables to which the user has given a value."""
        return {name: value for name, value in given_variables().items() if value}

    def _check_files(self) -> None:
        """Refuses files for another broker that the containers would not see."""
        given = {} if self._settings.own_broker else self._given
        folder = given.get("BROKER_FILES", "")
        for name in FILES:
            if name in given and not (Path(folder).is_absolute() and Path(given[name]).is_relative_to(folder)):
                raise StackError(
                    f"{name} is {given[name]}; in Docker it must be in BROKER_FILES, a folder with its whole path"
                )

    def _broker(self) -> dict[str, str]:
        """The variables about the broker for docker-compose.yml."""
        settings = self._settings
        if settings.own_broker:
            # Overrides .env, whose values are for another broker.
            return {"MQTT_HOST": "mosquitto", "MQTT_CA_FILE": "/certificates/ca.crt", "BROKER_FILES": ""}
        given = self._given
        return {
            "OWN_BROKER": "0",
            "OWN_CERTIFICATES": "0",
            "BROKER_INSIDE": "false",
            "BROKER_PORT": str(settings.mqtt_port),
            "MQTT_HOST": settings.mqtt_host,
            "MQTT_CA_FILE": given.get("MQTT_CA_FILE", ""),
            "MQTT_PRODUCER_CLIENT_ID": given.get("MQTT_PRODUCER_CLIENT_ID", ""),
        }

    def _compose(
        self, *arguments: str, capture: bool = False, more: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        # Commands that stop or show the stack work for all backends, whichever it was started with.
        profiles = ",".join(self._settings.backends) if arguments[0] == "up" else "*"
        environment = {
            **os.environ,
            "COMPOSE_ANSI": os.environ.get("COMPOSE_ANSI", "auto"),
            "BACKENDS": ",".join(self._settings.backends),
            "COMPOSE_PROFILES": profiles,
            "COLLECTOR_OTLP_PORT": str(OTLP_PORTS[self._settings.otel_exporter_otlp_protocol]),
            **self._broker(),
            **(more or {}),
        }
        return subprocess.run(
            ["docker", "compose", *arguments], cwd=ROOT, env=environment, capture_output=capture, text=True, check=False
        )


def _addresses(row: dict[str, object]) -> str:
    publishers = row.get("Publishers")
    if not isinstance(publishers, list):
        return ""
    published = {f"127.0.0.1:{port['PublishedPort']}" for port in publishers if port["PublishedPort"]}
    return ", ".join(sorted(published))
