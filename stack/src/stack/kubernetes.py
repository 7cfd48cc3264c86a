"""The Kubernetes runtime: the same parts as pods, by ``kubernetes/base``, in the cluster of the current context."""

import base64
import importlib.metadata
import ipaddress
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from typing_extensions import override

from stack import build
from stack.console import console
from stack.environment import environment_of, settings_among
from stack.errors import StackError
from stack.images import compose_files
from stack.local import check_ports, port_is_free
from stack.parts import local_parts, scout_values
from stack.runtime import Runtime
from stack.services import broker_users, new_services
from stack.settings import OTLP_PORTS, ROOT, SCOUT_VARIABLES, Settings

BASE = ROOT / "kubernetes" / "base"
NAMESPACE = "mqtt-tracing"
# The ports of each Service, and the setting with its port on this machine while a command needs it.
SERVICES = {
    "mosquitto": {"mqtt_port": 1883},
    "collector": {"otlp_grpc_port": 4317, "otlp_http_port": 4318, "collector_metrics_port": 8888},
    "echo": {"echo_port": 8080},
    "viewer": {"viewer_port": 8000},
    "issuer": {"issuer_port": 9000},
    "gateway": {"gateway_port": 4318},
}
LOCAL_SCOUT = ("viewer", "issuer", "gateway")
WITHOUT_A_SERVICE = ("producer", "consumer", "sessions")
OUR_IMAGES = ("producer", "consumer", "echo", "issuer", "viewer")
# The users of the broker.
USERS = ("producer", "consumer", "operator")
# Variables whose feature is a component here; an overlay lists components.
COMPONENTS = (
    "broker",
    "mqtt_tls",
    "mqtt_client_certificates",
    "backends",
    "collector_extras",
    "tail_sampling_percentage",
    "partitions",
)
# Addresses and paths of the pods, and the variables in Secrets.
OF_THE_BASE = re.compile(
    "_(PORT|HOST|BIND|URL|ENDPOINT|FILE|STATE|DATA|STORAGE|CERTIFICATES|USERNAME|PASSWORD|ID|SECRET|STRING)$|^(CONSUMERS|CONSUMER_ORDINAL|OTELCOL)$"
)
LOCAL_CONTEXTS = ("minikube", "docker-desktop", "rancher-desktop")
READY_SECONDS = 240
ANSWER_SECONDS = 10


class KubernetesRuntime(Runtime):
    """Starts, stops and shows the stack with kubectl, in the cluster in which it was started."""

    name = "kubernetes"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._folder = settings.run_dir / "kubernetes"
        # The context in which the stack runs; the current one may be another by now.
        self._context = self._folder / "context"

    @override
    def up(self) -> None:
        self._refuse_what_is_a_component()
        context = self._chosen_context()
        _load_images(context)
        self._write_overlay()
        self._context.write_text(context)
        started = time.monotonic()
        if self._kubectl("apply", "-k", str(self._folder), capture=False).returncode != 0:
            raise StackError(f"the cluster of {context} does not take the stack; what kubectl said is above")
        with console.status("Starting ..."):
            for part in self._workloads():
                wait = ("rollout", "status", part, f"--timeout={READY_SECONDS}s")
                if self._kubectl(*wait).returncode != 0:
                    raise StackError(f"{part} does not become ready: {self._waiting() or 'make logs shows more'}")
        console.print(
            f"All {len(self.states())} parts are ready after {time.monotonic() - started:.1f} s, in {context}."
        )

    @override
    def end_sessions(self, names: list[str]) -> None:
        """Does nothing: the pod ``sessions`` does this."""

    @override
    def down(self) -> None:
        if self._context.exists() and self._context.read_text() not in _contexts():
            console.print(f"{self._context.read_text()} is gone, and the stack with it.")
            self._context.unlink()
        if self._context.exists():
            with console.status("Stopping ..."):
                done = self._kubectl("delete", "--ignore-not-found", "-k", str(self._folder))
            if done.returncode != 0:
                raise StackError(f"not all of it could be deleted: {done.stderr[-1000:]}")
            self._context.unlink()

    @override
    def stop(self, part: str) -> None:
        workload = next(name for name in self._workloads() if name.endswith(f"/{part}"))
        self._kubectl("scale", workload, "--replicas=0")
        self._kubectl("wait", "--for=delete", "pod", "-l", f"app.kubernetes.io/name={part}", "--timeout=60s")

    @override
    def running(self) -> bool:
        return self._context.exists() and bool(self._workloads())

    @override
    def states(self) -> list[tuple[str, str, str]]:
        rows: list[tuple[str, str, str]] = []
        for item in self._get("deployments,statefulsets")["items"]:
            name, wanted = item["metadata"]["name"], item["spec"]["replicas"]
            ready = item["status"].get("readyReplicas", 0)
            state = "stopped" if not wanted else "healthy" if ready == wanted else f"{ready} of {wanted} ready"
            ports = ", ".join(str(port) for port in SERVICES.get(name, {}).values())
            rows.append((name, state, f"{name}.{NAMESPACE}: {ports}" if ports else ""))
        return rows

    @override
    def logs(self, part: str | None, lines: int, *, follow: bool) -> None:
        label = f"app.kubernetes.io/name={part}" if part else "app.kubernetes.io/part-of=mqtt-tracing"
        more = ["--follow"] if follow else []
        self._kubectl("logs", "-l", label, f"--tail={lines}", "--prefix", "--max-log-requests=50", *more, capture=False)

    @override
    def log_text(self, part: str) -> str:
        return self._kubectl("logs", "-l", f"app.kubernetes.io/name={part}", "--tail=-1").stdout

    @override
    def run_once(self, timeout_seconds: float) -> subprocess.CompletedProcess[str]:
        variables = [f"{name}={value}" for name, value in self._once.items()]
        command = ("exec", "deployment/producer", "--", "env", *variables, "python", "-m", "producer", "--once")
        return self._kubectl(*command, seconds=timeout_seconds)

    @override
    def environment(self, part: str) -> dict[str, str]:
        found = [item for item in self._get("deployments,statefulsets")["items"] if item["metadata"]["name"] == part]
        variables: dict[str, str] = {}
        for container in found[0]["spec"]["template"]["spec"]["containers"] if found else []:
            for source in container.get("envFrom", []):
                if "secretRef" in source:
                    secret = self._get(f"secret/{source['secretRef']['name']}")["data"]
                    variables |= {name: base64.b64decode(value).decode() for name, value in secret.items()}
                else:
                    variables |= self._get(f"configmap/{source['configMapRef']['name']}")["data"]
            variables |= {given["name"]: given["value"] for given in container.get("env", []) if "value" in given}
        return variables

    @override
    def authority(self) -> str:
        # Without the component `tls` there is no certificate.
        return ""

    @override
    @contextmanager
    def reached(self) -> Iterator[None]:
        mine = {name: {port: getattr(self._settings, port) for port in SERVICES[name]} for name in self._services()}
        check_ports({port.upper(): here for ports in mine.values() for port, here in ports.items()})
        with ExitStack() as forwards:
            for name, ports in mine.items():
                pairs = [f"{here}:{SERVICES[name][port]}" for port, here in ports.items()]
                command = self._command("port-forward", f"service/{name}", "--address=127.0.0.1", *pairs)
                quiet = subprocess.DEVNULL
                forward = forwards.enter_context(subprocess.Popen(command, stdout=quiet, stderr=quiet))
                forwards.callback(forward.terminate)
            deadline = time.monotonic() + ANSWER_SECONDS
            # A forward whose pod is away exits; a command that uses the port reports that.
            while any(port_is_free(here) for ports in mine.values() for here in ports.values()):
                if time.monotonic() > deadline:
                    break
                time.sleep(0.05)
            yield

    @override
    def pages(self) -> dict[str, str]:
        forward = shlex.join(self._command("port-forward", "service/viewer", f"{self._settings.viewer_port}:8000"))
        scout = str(self._settings.scout_otlp_endpoint)
        return {"Traces": f"make trace, or: {forward}" if self._settings.local_scout else scout}

    def _refuse_what_is_a_component(self) -> None:
        fields = type(self._settings).model_fields
        if given := [name.upper() for name in COMPONENTS if getattr(self._settings, name) != fields[name].default]:
            raise StackError(
                f"RUNTIME is kubernetes, where {', '.join(given)} cannot be set: an overlay names components for it "
                "(docs/kubernetes.md)"
            )

    def _chosen_context(self) -> str:
        """The current context; asks before it uses one that is not on this machine, unless the stack runs there.

        Raises:
            StackError: If there is none, or the user declines.
        """
        try:
            context = _output("kubectl", "config", "current-context")
            server = _output("kubectl", "config", "view", "--minify", "-o=jsonpath={.clusters[0].cluster.server}")
        except FileNotFoundError:
            raise StackError(
                "RUNTIME is kubernetes, but there is no kubectl; install it, or use another runtime"
            ) from None
        if not context:
            raise StackError("kubectl has no current context; `kubectl config use-context` chooses one")
        before = self._context.read_text() if self._context.exists() else context
        if before != context:
            raise StackError(f"the stack runs in {before}, and the current context is {context}; run `make down` first")
        if _is_local(context, server) or self._context.exists():
            return context
        question = f"{context} is the cluster at {server}, not one of this machine."
        if not sys.stdin.isatty():
            raise StackError(f"{question} `make up` asks for it in a terminal")
        if console.input(f"{question} Type its name to start the stack there: ") != context:
            raise StackError("nothing was started")
        return context

    def _write_overlay(self) -> None:
        """Writes what this stack adds to the base: its settings and its Secrets, readable only by this user."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        base = Path(os.path.relpath(BASE, self._folder.resolve()))
        secrets = self._secrets()
        for name, values in secrets.items():
            file = self._folder / f"{name}.env"
            file.touch(mode=0o600)
            file.write_text("".join(f"{key}={value}\n" for key, value in values.items()))
        to_scout = [] if self._settings.local_scout else ["scout"]
        overlay = {
            "namespace": NAMESPACE,
            "resources": [str(base)],
            "components": [str(base.parent / "components" / name) for name in to_scout],
            "secretGenerator": [
                {"name": name, "behavior": "create" if name in to_scout else "merge", "envs": [f"{name}.env"]}
                for name in secrets
            ],
            "replicas": [
                {"name": name, "count": self._settings.consumers if name == "consumer" else 1}
                for name in (*self._services(), *WITHOUT_A_SERVICE)
            ],
            "patches": self._patches(),
        }
        (self._folder / "kustomization.yaml").write_text(json.dumps(overlay))

    def _secrets(self) -> dict[str, dict[str, str]]:
        values = {**self._settings.variables(), **broker_users(new_services())}
        names = {user: (f"MQTT_{user.upper()}_USERNAME", f"MQTT_{user.upper()}_PASSWORD") for user in USERS}
        names |= {service.name: service.user for service in new_services()}
        secrets = {f"mqtt-{user}": {name: values[name] for name in names[user]} for user in names}
        if self._settings.local_scout:
            return {**secrets, "scout": {name: values[f"LOCAL_{name}"] for name in SCOUT_VARIABLES[:2]}}
        return {**secrets, "scout": scout_values(self._settings)}

    def _patches(self) -> list[dict[str, Any]]:
        """The variables that each part gets in the other runtimes."""
        patches: list[dict[str, Any]] = []
        for part in local_parts(self._settings, build.paths()):
            if part.name in (*self._services(), *WITHOUT_A_SERVICE):
                environment = environment_of(part)
                given = {name: value for name, value in environment.items() if not OF_THE_BASE.search(name)}
                if protocol := environment.get("OTEL_EXPORTER_OTLP_PROTOCOL"):
                    given["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://collector:{OTLP_PORTS[protocol]}"
                env = [{"name": name, "value": value} for name, value in settings_among(given).items()]
                spec = {"template": {"spec": {"containers": [{"name": part.name, "env": env}]}}}
                # The target selects what this patches.
                patch = {"apiVersion": "apps/v1", "kind": "all", "metadata": {"name": "all"}, "spec": spec}
                target = {"kind": "Deployment|StatefulSet", "name": part.name}
                patches.append({"patch": json.dumps(patch), "target": target})
        return patches

    def _services(self) -> list[str]:
        return [name for name in SERVICES if self._settings.local_scout or name not in LOCAL_SCOUT]

    def _workloads(self) -> list[str]:
        return self._kubectl("get", "deployments,statefulsets", "-o", "name").stdout.split()

    def _waiting(self) -> str:
        """Kubernetes' reasons why pods wait: most often for an image that the cluster does not have."""
        reasons = {
            f"{pod['metadata']['name']}: {waits['reason']} {waits.get('message', '')}"
            for pod in self._get("pods")["items"]
            for status in pod["status"].get("containerStatuses", [])
            if (waits := status["state"].get("waiting"))
        }
        return "; ".join(sorted(reasons))

    def _get(self, what: str) -> Any:
        return json.loads(self._kubectl("get", what, "-o", "json").stdout or '{"items": []}')

    def _command(self, *arguments: str) -> list[str]:
        return ["kubectl", "--context", self._context.read_text(), "--namespace", NAMESPACE, *arguments]

    def _kubectl(
        self, *arguments: str, capture: bool = True, seconds: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = self._command(*arguments)
        return subprocess.run(command, capture_output=capture, text=True, timeout=seconds, check=False)


def _contexts() -> list[str]:
    """The contexts that kubectl knows; kind and minikube remove the context of a deleted cluster."""
    return _output("kubectl", "config", "get-contexts", "--output=name").split()


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _is_local(context: str, server: str) -> bool:
    """Tells whether a cluster runs on this machine."""
    if context in LOCAL_CONTEXTS:
        return True
    host = urlsplit(server).hostname or ""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _load_images(context: str) -> None:
    """Builds our images and loads them into a cluster of kind or minikube; other clusters get them from elsewhere.

    Raises:
        StackError: If they cannot be built or loaded.
    """
    if context.startswith("kind-"):
        load = ["kind", "load", "docker-image", "--name", context.removeprefix("kind-")]
    elif context == "minikube":
        load = ["minikube", "image", "load"]
    else:
        return
    project = {**os.environ, **compose_files(), "COMPOSE_PROJECT_NAME": NAMESPACE}
    built = subprocess.run(["docker", "compose", "build", *OUR_IMAGES], cwd=ROOT, env=project, check=False)
    version = importlib.metadata.version("stack")
    images = {f"{NAMESPACE}-{part}": f"{NAMESPACE}-{part}:{version}" for part in OUR_IMAGES}
    steps = [*(["docker", "tag", *names] for names in images.items()), *([*load, image] for image in images.values())]
    if built.returncode or any(subprocess.run(step, check=False).returncode for step in steps):
        raise StackError(f"the images could not be built and loaded into {context}; what was said is above")
