"""The Docker runtime: its files, and the stack in containers if a Docker engine answers."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
import yaml
from test_template import copied

from harness import Stack, eventually, files_of_the_project, free_ports, mosquitto
from stack import images, programs
from stack.docker import INTERNAL_PORTS, engine_answers
from stack.part import local_url
from stack.services import new_services
from stack.settings import BACKENDS, ROOT, SCOUT_VARIABLES, Settings

FILES = [ROOT / "docker-compose.yml", ROOT / "backends/scout-local/on/compose.yml", *ROOT.glob("*/compose.yml")]
FILES += ROOT.glob("backends/*/compose.yml")
SERVICES: dict[str, dict[str, Any]] = {
    name: service for file in FILES for name, service in yaml.safe_load(file.read_text())["services"].items()
}
DOCKERFILES = files_of_the_project("*Dockerfile")
# The public images, and what is put over the builds of the containers.
DIGESTS: dict[str, Any] = yaml.safe_load(images.DIGESTS.read_text())
PINNED = {
    image: context.removeprefix("docker-image://")
    for image, context in DIGESTS["x-pinned"]["additional_contexts"].items()
}
# No digest of these was found in two public places that do not depend on each other.
WITHOUT_DIGEST = {
    "ghcr.io/ctrlspice/otel-desktop-viewer:v0.4.1",
    "jaegertracing/jaeger:2.13.0",
    "openzipkin/zipkin:3.5.1",
}
LIST_TRACES = {"jsonrpc": "2.0", "id": 1, "method": "searchTraces", "params": ["0", "9000000000000000000"]}
# Ends when its work is done, and runs only with MQTT_TLS=1.
JOB = "certificates"
NEW = {service.name for service in new_services()}
PARTS = {"mosquitto", "collector", "issuer", "gateway", "viewer", "page", "echo", "consumer", "producer", *NEW}

needs_engine = pytest.mark.skipif(not engine_answers(), reason="no Docker engine answers")


def test_there_is_a_container_for_each_part() -> None:
    # Azure Monitor is no container of ours.
    assert set(SERVICES) == {*PARTS, JOB, *BACKENDS} - {"azuremonitor"}


def test_each_file_of_a_service_is_included() -> None:
    included = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["include"]
    assert {f"{name}/compose.yml" for name in NEW} == set(included[1:]) - {"backends/observability/compose.yml"}


def test_a_backend_runs_only_where_it_is_asked_for() -> None:
    profiles = {name: set(service["profiles"]) for name, service in SERVICES.items() if "profiles" in service}
    assert profiles == {
        "jaeger": {"jaeger"},
        "zipkin": {"zipkin"},
        "prometheus": {"prometheus", "grafana"},
        "grafana": {"grafana"},
    }


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_container_can_do_no_more_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert name == JOB or service["healthcheck"]["test"]
    assert service["restart"] == ("no" if name == JOB else "unless-stopped")
    assert not {"privileged", "cap_add", "user", "network_mode", "pid"} & set(service)
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert service["mem_limit"]
    assert service["pids_limit"] <= 256


# Services that accept connections from outside or may connect to the outside, as the Collector does to Scout.
OUTSIDE = {"mosquitto", "collector", "echo", "issuer", "gateway", "page", *BACKENDS}


def test_a_container_that_nobody_outside_needs_is_on_the_internal_network_only() -> None:
    networks = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["networks"]
    assert networks == {"default": None, "inside": {"internal": "${BROKER_INSIDE:-true}"}}
    for name, service in SERVICES.items():
        if name not in NEW:
            assert service["networks"] == (["default", "inside"] if name in OUTSIDE else ["inside"]), name
        assert "ports" not in service or "default" in service["networks"]


def public_images(dockerfile: Path) -> set[str]:
    """The images that a Dockerfile names and does not make."""
    text = dockerfile.read_text()
    stages = re.findall(r"^FROM \S+ AS (\S+)", text, re.M)
    return set(re.findall(r"^(?:FROM |COPY --from=)(\S+)", text, re.M)) - set(stages)


def test_each_public_image_has_a_digest() -> None:
    template = ROOT / "template" / "project" / "Dockerfile.jinja"
    named = set.union(*map(public_images, [*DOCKERFILES, template]))
    assert named - WITHOUT_DIGEST == PINNED.keys()
    assert named > WITHOUT_DIGEST
    for image, pinned in PINNED.items():
        assert re.fullmatch(rf"{re.escape(image)}@sha256:[0-9a-f]{{64}}", pinned)
    assert not any("image" in service for service in SERVICES.values())


def test_each_container_is_built_on_the_digests() -> None:
    assert DIGESTS["services"] == {name: {"build": DIGESTS["x-pinned"]} for name in SERVICES}


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name)
def test_images_have_a_version_and_run_by_another_user_than_root(dockerfile: Path) -> None:
    for image in public_images(dockerfile):
        assert re.search(r":v?\d+\.\d+[^:@]*$", image), image
    text = dockerfile.read_text()
    users = re.findall(r"^USER (\d+):\d+$", text, re.M)
    assert users
    assert users[-1] != "0"


def test_the_collector_is_of_the_same_release_in_both_runtimes() -> None:
    dockerfile = (ROOT / "collector" / "Dockerfile").read_text()
    for manifest in programs.MANIFESTS.values():
        built = yaml.safe_load(manifest.read_text())["dist"]["version"]
        assert re.search(rf"^FROM otel/opentelemetry-collector-contrib:{re.escape(built)}(@|$)", dockerfile, re.M)


def test_variables_and_defaults_are_those_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(field.upper(), raising=False)
    found = re.findall(r"\$\{([A-Z_]+):-([^{}$]*)\}", "".join(file.read_text() for file in FILES))
    values = {name.lower(): value for name, value in found if name.lower() in Settings.model_fields}
    of_scout = {name.lower() for name in SCOUT_VARIABLES}
    of_local_runtime = {"runtime", "run_dir", *map(str.lower, INTERNAL_PORTS)}
    # Passed on if they are set.
    without_default = {"applicationinsights_connection_string", "tail_sampling_percentage", "partitions"}
    assert set(values) - of_scout == set(Settings.model_fields) - of_scout - of_local_runtime - without_default
    # In containers the broker is another host.
    given = {name: value for name, value in values.items() if name not in of_scout | {"mqtt_host"}}
    assert Settings(_env_file=None, **given) == Settings(_env_file=None)  # pyright: ignore[reportCallIssue] (pydantic-settings parses them)


def test_a_secret_reaches_only_the_containers_that_need_it() -> None:
    holders: dict[str, set[str]] = {}
    for name, service in SERVICES.items():
        for variable in service.get("environment", {}):
            if re.search("PASSWORD|SECRET|CONNECTION_STRING", variable):
                holders.setdefault(variable, set()).add(name)
    assert holders == {
        "MQTT_PRODUCER_PASSWORD": {"mosquitto", "producer"},
        "MQTT_CONSUMER_PASSWORD": {"mosquitto", "consumer"},
        "MQTT_OPERATOR_PASSWORD": {"mosquitto"},
        "SCOUT_CLIENT_SECRET": {"collector"},
        "LOCAL_SCOUT_CLIENT_SECRET": {"issuer"},
        "APPLICATIONINSIGHTS_CONNECTION_STRING": {"collector"},
        **{service.user[1]: {"mosquitto", service.name} for service in new_services()},
    }


# ---------------------------------------------------------------------- with an engine

SCOUT_VALUES: dict[str, str] = dict(
    zip(SCOUT_VARIABLES, ("me", "secret", "http://issuer.test/token", "http://scout.test"), strict=True)
)


class Containers(Stack):
    """A stack of its own in containers."""

    def __init__(self, folder: Path) -> None:
        self.project = f"mqtt-tracing-test-{os.getpid()}"
        super().__init__(folder, RUNTIME="docker", COMPOSE_PROJECT_NAME=self.project, COMPOSE_DISABLE_ENV_FILE="1")

    def stack(self, *arguments: str) -> str:
        """The output of a command of the stack, which must succeed; it may have to build images first."""
        done = self._run([sys.executable, "-m", "stack", *arguments])
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
        return done.stdout

    def docker(self, *arguments: str) -> str:
        """The output of a Docker command."""
        done = self._run(["docker", *arguments])
        assert done.returncode == 0, done.stderr
        return done.stdout

    def config(self, values: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """The configuration that Compose makes of the files with these variables."""
        return self._run(["docker", "compose", "config", "--format", "json"], values)

    def left(self) -> str:
        """The ids of the containers and networks of this stack."""
        mine = ("--quiet", "--filter", f"label=com.docker.compose.project={self.project}")
        return self.docker("ps", "--all", *mine) + self.docker("network", "ls", *mine)

    def remove(self) -> None:
        """Removes all of it."""
        self.docker("compose", "--profile", "*", "down", "--volumes", "--rmi", "local", "--remove-orphans")

    def _run(self, command: list[str], values: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        environment = self.environment | (values or {})
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False
        )


@pytest.fixture
def containers(tmp_path: Path) -> Iterator[Containers]:
    containers = Containers(tmp_path)
    yield containers
    containers.remove()


@needs_engine
def test_without_values_of_scout_the_local_scout_runs(containers: Containers) -> None:
    services = json.loads(containers.config({}).stdout)["services"]
    assert {name for name, service in services.items() if service.get("scale") != 0} == PARTS


@needs_engine
def test_digests_change_nothing_but_what_the_containers_are_built_on(containers: Containers) -> None:
    def services(**values: str) -> dict[str, dict[str, Any]]:
        return json.loads(containers.config({"COMPOSE_PROFILES": "*", **values}).stdout)["services"]

    by_digest = services(COMPOSE_FILE=f"docker-compose.yml:{images.DIGESTS.name}")
    for service in by_digest.values():
        assert service["build"].pop("additional_contexts") == DIGESTS["x-pinned"]["additional_contexts"]
    assert by_digest == services()


@pytest.fixture
def images_of_a_project(
    containers: Containers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, str]]:
    """Two public images of a project: one that nobody has, and one that the engine has from no registry."""
    nobodys, held = (f"{containers.project}-{name}:1.0" for name in ("nobodys", "held"))
    file = tmp_path / "docker-compose.digests.yml"
    file.write_text(f"docker-image://{nobodys}@sha256:{0:064}")
    monkeypatch.setattr(images, "DIGESTS", file)
    monkeypatch.setattr(images, "ROOT", tmp_path)
    monkeypatch.setenv("COMPOSE_FILE", "")
    (tmp_path / "Dockerfile").write_text("FROM scratch\nLABEL held=1\n")
    containers.docker("build", "--tag", held, str(tmp_path))
    yield nobodys, held
    containers.docker("image", "rm", held)


@needs_engine
def test_public_images_are_taken_by_digest(images_of_a_project: tuple[str, str], tmp_path: Path) -> None:
    assert images.compose_files() == {"COMPOSE_FILE": "docker-compose.yml:docker-compose.digests.yml"}
    # What a user puts over the containers stays.
    (tmp_path / "compose.override.yaml").touch()
    files = "docker-compose.yml:compose.override.yaml:docker-compose.digests.yml"
    assert images.compose_files() == {"COMPOSE_FILE": files}


@needs_engine
def test_public_images_are_taken_by_tag_where_one_is_from_no_registry(
    images_of_a_project: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    _, held = images_of_a_project
    with images.DIGESTS.open("a") as file:
        file.write(f"\ndocker-image://{held}@sha256:{0:064}")
    assert images.compose_files() == {}
    said = f"{held} here is not from a registry: public images are taken by tag, not by digest.\n"
    assert capsys.readouterr().out == said


@needs_engine
def test_who_has_chosen_compose_s_files_is_not_corrected(
    images_of_a_project: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPOSE_FILE", "docker-compose.yml")
    assert images.compose_files() == {}


@needs_engine
def test_with_tls_the_certificates_are_made_first(containers: Containers) -> None:
    services = json.loads(containers.config({"MQTT_TLS": "1"}).stdout)["services"]
    assert services[JOB].get("scale", 1) == 1
    assert services["mosquitto"]["depends_on"][JOB]["condition"] == "service_completed_successfully"


@needs_engine
def test_with_all_values_of_scout_the_local_scout_stays_off(containers: Containers) -> None:
    services = json.loads(containers.config(SCOUT_VALUES).stdout)["services"]
    off = {name for name, service in services.items() if service.get("scale") == 0}
    assert off == {JOB, "issuer", "gateway", "viewer", "page"}
    environment = services["collector"]["environment"]
    assert {name: environment[name] for name in SCOUT_VARIABLES} == SCOUT_VALUES


@needs_engine
@pytest.mark.parametrize("missing", SCOUT_VARIABLES)
def test_a_half_filled_set_is_refused_by_name(containers: Containers, missing: str) -> None:
    done = containers.config(SCOUT_VALUES | {missing: ""})
    assert done.returncode != 0
    assert f"{missing} is missing" in done.stderr


@needs_engine
@pytest.mark.timeout(1800)
def test_one_reading_is_one_trace_in_containers_too(containers: Containers) -> None:
    containers.stack("up")
    containers.stack("verify")
    # A second `make up` changes nothing.
    before = containers.docker("compose", "ps", "--quiet")
    containers.stack("up")
    assert containers.docker("compose", "ps", "--quiet") == before

    states = json.loads(containers.docker("inspect", *before.split()))
    assert len(states) == len(PARTS)
    for state in states:
        assert state["Config"]["User"] in ("10001:10001", "1883:1883")
        assert state["HostConfig"]["ReadonlyRootfs"]
        assert state["HostConfig"]["CapDrop"] == ["ALL"]
        assert state["HostConfig"]["Memory"] > 0
        assert 0 < state["HostConfig"]["PidsLimit"] <= 256
        bound = [address["HostIp"] for port in state["HostConfig"]["PortBindings"].values() for address in port]
        assert set(bound) <= {"127.0.0.1"}

    for port, path in ((containers.settings.viewer_port, "/rpc"), (containers.settings.viewer_port, "/")):
        asked = local_url(port, path)
        assert requests.post(asked, json=LIST_TRACES, timeout=5).status_code in (200, 405)
        for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}):
            assert requests.post(asked, json=LIST_TRACES, headers=headers, timeout=5).status_code == 403
    for port, path in ((containers.settings.echo_port, "/healthz"), (containers.settings.issuer_port, "/healthz")):
        assert requests.get(local_url(port, path), headers={"Host": "evil.example"}, timeout=5).status_code == 400

    started = time.monotonic()
    containers.docker("compose", "stop", "producer", "consumer", "echo")
    assert time.monotonic() - started < 5
    stopped = containers.docker(
        "compose", "ps", "--all", "--status", "exited", "--format", "{{.Service}} {{.ExitCode}}"
    )
    assert sorted(stopped.splitlines()) == ["consumer 0", "echo 0", "producer 0"]

    containers.stack("down")
    assert containers.left() == ""


@needs_engine
@pytest.mark.timeout(1800)
def test_each_backend_holds_the_reading_in_containers_too(containers: Containers) -> None:
    containers.environment |= {"BACKENDS": "jaeger,zipkin,grafana", "OTEL_METRIC_EXPORT_INTERVAL": "1000"}
    containers.stack("up")
    for backend in ("jaeger", "zipkin", "prometheus"):
        containers.stack("verify", backend)
    running = containers.docker("compose", "--profile", "*", "ps", "--services").split()
    assert set(running) == PARTS | {"jaeger", "zipkin", "prometheus", "grafana"}
    # Users need not remember with which backends they started it.
    del containers.environment["BACKENDS"]
    containers.stack("down")
    assert containers.left() == ""


@needs_engine
@pytest.mark.timeout(1800)
def test_the_image_of_a_project_of_its_own_takes_its_part_in_a_trace(containers: Containers, tmp_path: Path) -> None:
    name = f"relay-{os.getpid()}"
    variable = name.upper().replace("-", "_")
    project = copied(tmp_path, name=name)
    (tmp_path / "mqtt-tracing").symlink_to(ROOT)
    for command in (["make", "wheels"], ["make", "image"]):
        done = subprocess.run(
            command, cwd=project, env=containers.environment, capture_output=True, text=True, timeout=900, check=False
        )
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    try:
        wrong = subprocess.run(
            ["docker", "run", "--rm", "--env", "MQTT_PORT=70000", name],
            env=containers.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (wrong.returncode, wrong.stderr) == (2, "MQTT_PORT is '70000'; it must be a TCP port, 1 to 65535\n")
        containers.stack("up")
        variables = {
            "MQTT_HOST": "mosquitto",
            # The broker has no user for another project; the operator may use any client id.
            f"MQTT_{variable}_USERNAME": "operator",
            f"MQTT_{variable}_PASSWORD": "operator-secret",
            f"{variable}_URL": "http://echo:8080/echo",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317",
        }
        options = [option for key, value in variables.items() for option in ("--env", f"{key}={value}")]
        options += [
            "--detach",
            "--read-only",
            "--tmpfs=/tmp",
            f"--name={name}",
            f"--network={containers.project}_inside",
        ]
        containers.docker("run", *options, name)

        def kinds() -> set[str]:
            ids = containers.viewer.trace_ids_of(name, 0, time.time_ns())
            spans = [span for trace_id in ids for span in containers.viewer.trace(trace_id)]
            return {f"{span.service} {span.kind}" for span in spans}

        expected = {"producer Producer", f"{name} Consumer", f"{name} Client", "echo Server"}
        eventually(lambda: expected <= kinds(), 60)
    finally:
        for removed in (["rm", "--force", name], ["rmi", "--force", name]):
            subprocess.run(["docker", *removed], env=containers.environment, capture_output=True, check=False)


@needs_engine
@pytest.mark.timeout(1800)
def test_consumers_and_devices_come_in_as_their_own_users_in_containers_too(containers: Containers) -> None:
    containers.environment |= {"MQTT_TLS": "1", "MQTT_CLIENT_CERTIFICATES": "1", "CONSUMERS": "2"}
    containers.stack("up")
    containers.stack("verify")
    log = containers.docker("compose", "logs", "mosquitto")
    for user in ("consumer", "consumer-2", "producer", "producer-once"):
        assert re.search(rf" as {user} \(p5, c\d, k\d+, u'{user}'\)", log), user
    # The first consumer ends the session of the second.
    containers.environment["CONSUMERS"] = "1"
    containers.stack("up")
    assert "Client consumer-2 disconnected" in containers.docker("compose", "logs", "mosquitto")


@needs_engine
@pytest.mark.timeout(1800)
def test_the_containers_run_at_a_broker_outside_of_them(containers: Containers, tmp_path: Path) -> None:
    # This machine's address as containers see it, which nobody else sees.
    address = containers.docker(
        "network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}"
    ).strip()
    (port,) = free_ports(1)
    authority = trustme.CA()
    certificate = authority.issue_cert(address)
    files = tmp_path / "files"
    files.mkdir()
    authority.cert_pem.write_to_path(files / "ca.crt")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "broker.pem")
    pem = tmp_path / "broker.pem"
    lines = [f"listener {port} {address}", f"certfile {pem}", f"keyfile {pem}", "allow_anonymous true", "log_type all"]
    containers.environment |= {
        "BROKER": "external",
        "MQTT_HOST": address,
        "MQTT_PORT": str(port),
        "MQTT_TLS": "1",
        "MQTT_CA_FILE": str(files / "ca.crt"),
        "MQTT_CONSUMER_CLIENT_ID": "mine",
        "CONSUMERS": "2",
        "INTERVAL_SECONDS": "1",
    }
    refused = containers.run("up")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "ca.crt; in Docker it must be in BROKER_FILES, a folder with its whole path" in refused.stderr
    containers.environment["BROKER_FILES"] = str(files)
    with mosquitto(tmp_path, *lines) as log:
        containers.stack("up")
        containers.stack("verify")
        assert f"mqtts://{address}:{port}" in containers.stack("ps")
        running = containers.docker("compose", "--profile", "*", "ps", "--services").split()
        assert set(running) == PARTS - {"mosquitto"}
        assert "each of" in containers.stack("doctor")
        assert "connected to the broker" in containers.stack("logs", "producer")
        for client, user in (("mine", "consumer"), ("mine-2", "consumer"), ("producer-[0-9a-f]{8}", "producer")):
            assert re.search(rf" as {client} \(p5, c\d, k\d+, u'{user}'\)", log.read_text()), client
        # The first consumer ends the session of the second.
        containers.environment["CONSUMERS"] = "1"
        containers.stack("up")
        assert "mine-2" in log.read_text().rpartition(" as mine-2 ")[2]
        containers.stack("down")
    assert containers.left() == ""
