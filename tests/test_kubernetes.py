"""Kubernetes: the manifests and, with `make test-kubernetes`, the stack on a cluster."""

import json
import os
import re
import subprocess
import threading
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import kubernetes_validate
import pytest
import yaml
from test_documents import CLUSTER, NOT_RUN, listed, sh_blocks, shell

from harness import Stack, eventually, is_whole, reading
from ledger import PROCESSED, RECEIVING, Publisher
from service.partitions import MOST_PARTITIONS
from stack.kubernetes import KubernetesRuntime
from stack.local import port_is_free
from stack.parts import consumer_names
from stack.services import new_services
from stack.settings import MOST_CONSUMERS, ROOT, SCOUT_VARIABLES, Settings
from stack.trace import Span, roots
from stack.viewer import Viewer
from test_docker import PINNED, SERVICES

KUBERNETES = ROOT / "kubernetes"
PAGE = ROOT / "docs" / "kubernetes.md"
TOOLS = KUBERNETES / "tools"
# The Go module of each operator whose resources we use, and the place of their schemas in it.
OPERATORS = {
    "monitoring.coreos.com": (
        "github.com/prometheus-operator/prometheus-operator",
        "example/prometheus-operator-crd/monitoring.coreos.com_{}s.yaml",
    ),
    "keda.sh": ("github.com/kedacore/keda/v2@v2.17.2", "config/crd/bases/keda.sh_{}s.yaml"),
    "opentelemetry.io": (
        "github.com/open-telemetry/opentelemetry-operator@v0.137.0",
        "config/crd/bases/opentelemetry.io_{}s.yaml",
    ),
}
COMPONENTS = sorted(path.parent.name for path in KUBERNETES.glob("components/*/kustomization.yaml"))
# All components that can be combined, in an order that works.
TOGETHER = ("network-policies", "tls", "prometheus", "autoscaling", "scout", "external-broker", "digests")
# What is built on the base: an overlay, or components.
BUILDS: dict[str, str | tuple[str, ...]] = {
    "base": (),
    **{path.name: f"overlays/{path.name}" for path in KUBERNETES.glob("overlays/*")},
    **{component: (component,) for component in COMPONENTS},
    "all components": TOGETHER,
    "operator by digest": ("operator", "digests"),
    "artemis with policies": ("network-policies", "artemis"),
}
# The version that the tests on a cluster use, and the newest one.
VERSIONS = ("1.34", "1.37")
WORKLOADS = ("Deployment", "StatefulSet")
# Components whose resources the cluster must know.
OF_OPERATORS = {"prometheus", "autoscaling", "operator"}
# Secrets that the platform makes, in production.
OF_THE_CLUSTER = {"scout", "mosquitto-tls", "mqtt-producer", "mqtt-consumer", "mqtt-operator"}
OF_THE_CLUSTER |= {f"mqtt-{service.name}" for service in new_services()}
# In the other runtimes, the tool behind `make` does its work.
SESSIONS = "sessions"
# One of them is in each build, unless the broker is elsewhere.
BROKERS = {"mosquitto", "artemis"}
# Ports that are open only with COLLECTOR_EXTRAS, MQTT_CLIENT_CERTIFICATES, or the component `prometheus`.
EXTRAS = {1777, 9411, 55679, 8883, 8889}

Resource = dict[str, Any]


@cache
def kustomize(folder: str) -> list[Resource]:
    """The resources that a folder makes."""
    command = ["go", "tool", "kustomize", "build", folder]
    done = subprocess.run(command, cwd=TOOLS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Resource]]:
    """The resources of the base with a component, of all of them together, and of each overlay."""
    folders = {name: str(KUBERNETES / build) for name, build in BUILDS.items() if isinstance(build, str)}
    for name, components in BUILDS.items():
        if not isinstance(components, str):
            folder = tmp_path_factory.mktemp("overlay").resolve()
            from_here = Path(os.path.relpath(KUBERNETES, folder))
            overlay = {
                "resources": [str(from_here / "base")],
                "components": [str(from_here / "components" / component) for component in components],
            }
            (folder / "kustomization.yaml").write_text(json.dumps(overlay))
            folders[name] = str(folder)
    return {name: kustomize(folder) for name, folder in folders.items()}


@pytest.fixture(params=BUILDS)
def resources(request: pytest.FixtureRequest, built: dict[str, list[Resource]]) -> list[Resource]:
    """The resources of one build."""
    return built[request.param]


def base() -> list[Resource]:
    """The resources of the base."""
    return kustomize(str(KUBERNETES / "base"))


def workloads(resources: list[Resource]) -> dict[str, Resource]:
    """The Deployments and StatefulSets, by name."""
    return {item["metadata"]["name"]: item for item in resources if item["kind"] in WORKLOADS}


def pods(resources: list[Resource]) -> dict[str, Resource]:
    """The pods of the workloads, by name."""
    return {name: item["spec"]["template"] for name, item in workloads(resources).items()}


def container(pod: Resource) -> Resource:
    """The only container of a pod."""
    (one,) = pod["spec"]["containers"]
    assert "initContainers" not in pod["spec"]
    return one


def of_kind(resources: list[Resource], kind: str) -> dict[str, Resource]:
    """The resources of one kind, by name."""
    return {item["metadata"]["name"]: item for item in resources if item["kind"] == kind}


# ---------------------------------------------------------------------- Kubernetes takes them


@cache
def operators_schema(api_version: str, kind: str) -> jsonschema_rs.Validator:
    """The validator for a resource of an operator, by its schema."""
    group, _, version = api_version.partition("/")
    module, path = OPERATORS[group]
    command = ["go", "mod", "download", "-json", module]
    done = subprocess.run(command, cwd=TOOLS, capture_output=True, text=True, check=True)
    file = Path(json.loads(done.stdout)["Dir"], path.format(kind.lower()))
    (found,) = [one for one in yaml.safe_load(file.read_text())["spec"]["versions"] if one["name"] == version]
    schema = closed(found["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    # The patterns are Go's; Rust's regular expressions support more of them than Python's.
    return jsonschema_rs.validator_for(schema, pattern_options=jsonschema_rs.RegexOptions())


def closed(schema: Any) -> Any:
    """The schema with unknown fields forbidden."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: closed(value) for name, value in schema.items()}
    open_to_others = {"additionalProperties", "x-kubernetes-preserve-unknown-fields"} & inner.keys()
    is_object = inner.get("type") == "object" and "properties" in inner
    return {**inner, "additionalProperties": False} if is_object and not open_to_others else inner


@pytest.mark.parametrize("version", VERSIONS)
def test_each_resource_is_one_that_kubernetes_takes(built: dict[str, list[Resource]], version: str) -> None:
    different = {json.dumps(item, sort_keys=True): item for resources in built.values() for item in resources}
    for item in different.values():
        if item["apiVersion"].partition("/")[0] in OPERATORS:
            operators_schema(item["apiVersion"], item["kind"]).validate(item)
        else:
            kubernetes_validate.validate(item, version, strict=True)


def test_an_unknown_field_is_refused() -> None:
    (deployment,) = [item for item in base() if item["kind"] == "Deployment" and item["metadata"]["name"] == "echo"]
    wrong = {**deployment, "spec": {**deployment["spec"], "replica": 1}}
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)
    rule = {"alert": "A", "expr": "up", "label": {}}
    wrong = {"metadata": {}, "spec": {"groups": [{"name": "readings", "rules": [rule]}]}}
    with pytest.raises(jsonschema_rs.ValidationError, match="label"):
        operators_schema("monitoring.coreos.com/v1", "PrometheusRule").validate(wrong)


def test_what_a_resource_names_is_there(resources: list[Resource]) -> None:
    known = {(item["kind"], item["metadata"]["name"]) for item in resources}
    known |= {("Secret", name) for name in OF_THE_CLUSTER}
    labels = [pod["metadata"]["labels"] for pod in pods(resources).values()]
    # The operator gives its pods the labels of its resource.
    labels += [item["metadata"]["labels"] for item in of_kind(resources, "OpenTelemetryCollector").values()]
    for pod in pods(resources).values():
        one, spec = container(pod), pod["spec"]
        named = {("ServiceAccount", spec["serviceAccountName"])}
        for source in one.get("envFrom", []):
            named |= {("ConfigMap" if key == "configMapRef" else "Secret", ref["name"]) for key, ref in source.items()}
        for variable in one.get("env", []):
            if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                named.add(("Secret", reference["name"]))
        for volume in spec["volumes"]:
            named |= {("ConfigMap", volume["configMap"]["name"])} if "configMap" in volume else set()
            named |= {("Secret", volume["secret"]["secretName"])} if "secret" in volume else set()
        assert named <= known
        ports = {port["name"] for port in one.get("ports", [])}
        probes = [one[probe]["httpGet"]["port"] for probe in PROBES if "httpGet" in one[probe]]
        assert set(probes) <= ports
    for service in of_kind(resources, "Service").values():
        assert any(service["spec"]["selector"].items() <= pod.items() for pod in labels), service["metadata"]["name"]
    for budget in of_kind(resources, "PodDisruptionBudget").values():
        assert any(budget["spec"]["selector"]["matchLabels"].items() <= pod.items() for pod in labels)


def test_a_component_that_takes_something_out_leaves_nothing_of_it(resources: list[Resource]) -> None:
    names = workloads(resources).keys()
    left = {item["metadata"]["name"] for item in resources if item["kind"] != "NetworkPolicy"}
    if "gateway" not in names:
        assert not {name for name in left if re.match("issuer|gateway|viewer", name)}
    if "mosquitto" not in names:
        assert not {name for name in left if re.match("mosquitto", name)}
    if not BROKERS & names:
        assert not {name for name in left if re.match("mqtt-operator", name)}
    if SESSIONS not in names:
        assert not {name for name in left if re.match(SESSIONS, name)}


# ---------------------------------------------------------------------- a pod can do no more than it needs

PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
# Of the restricted level: https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
VOLUMES = {"configMap", "emptyDir", "secret", "persistentVolumeClaim"}


def test_the_namespace_takes_no_pod_that_may_do_more_than_restricted_ones(resources: list[Resource]) -> None:
    (namespace,) = of_kind(resources, "Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    inside = [item for item in resources if item["kind"] != "Namespace"]
    assert {item["metadata"]["namespace"] for item in inside} == {namespace["metadata"]["name"]}


def test_a_pod_can_do_no_more_than_it_needs(resources: list[Resource]) -> None:
    for name, pod in pods(resources).items():
        spec, one = pod["spec"], container(pod)
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        kinds = {kind for volume in spec["volumes"] for kind in volume.keys() - {"name"}}
        assert kinds <= VOLUMES | ({"projected"} if name == SESSIONS else set())
        assert one["securityContext"] == {
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not any("hostPort" in port for port in one.get("ports", []))
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert one["imagePullPolicy"] == "IfNotPresent"
        assert one["resources"]["requests"].keys() == one["resources"]["limits"].keys() == {"cpu", "memory"}
        assert all(one[probe] for probe in PROBES), name
    accounts = of_kind(resources, "ServiceAccount")
    assert not any(account["automountServiceAccountToken"] for account in accounts.values())


def test_one_pod_may_ask_one_thing_of_kubernetes(resources: list[Resource]) -> None:
    if SESSIONS not in workloads(resources):
        assert not of_kind(resources, "Role")
        return
    (role,) = of_kind(resources, "Role").values()
    (binding,) = of_kind(resources, "RoleBinding").values()
    (rule,) = role["rules"]
    assert (rule["resources"], rule["verbs"]) == (["statefulsets/scale"], ["get"])
    (scaled,) = rule["resourceNames"]
    assert scaled in of_kind(resources, "StatefulSet")
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    (subject,) = binding["subjects"]
    users = {name for name, pod in pods(resources).items() if pod["spec"]["serviceAccountName"] == subject["name"]}
    assert users == {SESSIONS}


def test_a_secret_reaches_only_the_pods_that_need_it(resources: list[Resource]) -> None:
    holders: dict[str, set[str]] = {}
    for name, pod in pods(resources).items():
        one = container(pod)
        read = [source["secretRef"]["name"] for source in one.get("envFrom", []) if "secretRef" in source]
        read += [
            variable["valueFrom"]["secretKeyRef"]["name"]
            for variable in one.get("env", [])
            if "secretKeyRef" in variable.get("valueFrom", {})
        ]
        for secret in read:
            holders.setdefault(re.sub("-[a-z0-9]{10}$", "", secret), set()).add(name)
    expected = {
        "mqtt-producer": {*BROKERS, "producer"},
        "mqtt-consumer": {*BROKERS, "consumer", SESSIONS},
        "mqtt-operator": BROKERS,
        "artemis-cluster": {"artemis"},
        "scout": {"collector", "issuer"},
    }
    expected |= {f"mqtt-{service.name}": {"mosquitto"} for service in new_services()}
    there = pods(resources).keys()
    assert holders == {secret: names & there for secret, names in expected.items() if names & there}


@pytest.mark.parametrize(
    "resources", ["production", "network-policies", "all components", "artemis with policies"], indirect=True
)
def test_policies_allow_the_way_of_a_reading_and_nothing_else(resources: list[Resource]) -> None:
    policies = of_kind(resources, "NetworkPolicy")
    everybody = policies.pop("everybody")
    assert everybody["spec"]["podSelector"] == {}
    assert everybody["spec"]["policyTypes"] == ["Ingress", "Egress"]
    there = pods(resources).keys()
    # Each pod has a policy; a pod that is left out has none.
    assert policies.keys() == there
    into, out_of = set(), set()
    for name, policy in policies.items():
        for key, ways, rules in (("from", into, "ingress"), ("to", out_of, "egress")):
            for rule in policy["spec"].get(rules, []):
                peers = [peer["podSelector"]["matchLabels"]["app.kubernetes.io/name"] for peer in rule.get(key, [])]
                for peer in set(peers) & there:
                    way = (peer, name) if key == "from" else (name, peer)
                    ways |= {(*way, port["port"]) for port in rule["ports"]}
    assert out_of == into
    assert ("producer", "echo", 8080) not in into


# ---------------------------------------------------------------------- the same stack as in the other runtimes


def ours(image: str) -> bool:
    """Tells whether `docker compose build` makes an image."""
    return image.startswith("mqtt-tracing-")


def test_images_are_those_of_the_containers() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for name, pod in pods(base()).items():
        image = container(pod)["image"]
        if ours(image):
            assert image == f"mqtt-tracing-{name.replace(SESSIONS, 'consumer')}:{version}"
        else:
            # In Docker it is the official image with configuration, which is a ConfigMap here.
            dockerfile = (ROOT / SERVICES[name]["build"]["dockerfile"]).read_text()
            assert re.search(rf"^FROM {re.escape(image)}(@|$)", dockerfile, re.M), image


def test_digests_are_those_of_the_containers(built: dict[str, list[Resource]]) -> None:
    named = {name: container(pod)["image"] for name, pod in pods(base()).items()}
    by_digest = {name: image if ours(image) else PINNED[image] for name, image in named.items()}
    assert {name: container(pod)["image"] for name, pod in pods(built["digests"]).items()} == by_digest
    (collector,) = of_kind(built["operator by digest"], "OpenTelemetryCollector").values()
    assert collector["spec"]["image"] == by_digest["collector"]


def test_there_is_a_pod_for_each_container() -> None:
    # The containers of BACKENDS have components or operators instead; `page` replaces a port-forward in Docker.
    stack = {name for name, service in SERVICES.items() if "profiles" not in service}
    new = {service.name for service in new_services()}
    assert pods(base()).keys() == (stack - {"certificates", "page"} - new) | {SESSIONS}


def test_ports_are_those_of_the_containers() -> None:
    services = of_kind(base(), "Service")
    for name, pod in pods(base()).items():
        published = {int(port.rpartition(":")[2]) for port in SERVICES.get(name, {}).get("ports", [])} - EXTRAS
        ports = {port["name"]: port["containerPort"] for port in container(pod).get("ports", [])}
        offered = {port["port"] for port in services[name]["spec"].get("ports", [])} if name in services else set()
        assert published <= offered, name
        for port in services[name]["spec"].get("ports", []) if name in services else []:
            assert ports[port["targetPort"]] == port["port"]


def test_variables_are_those_of_the_containers() -> None:
    maps = of_kind(base(), "ConfigMap")
    secrets = of_kind(base(), "Secret")
    of_kubernetes = {"POD_NAME", "ORDINAL", "BROKER_USER", "MQTT_CLIENT_ID", "MQTT_PORT"}
    for name, pod in pods(base()).items():
        one = container(pod)
        given = {variable["name"] for variable in one.get("env", [])}
        for source in one.get("envFrom", []):
            if "configMapRef" in source:
                given |= maps[source["configMapRef"]["name"]]["data"].keys()
            else:
                given |= secrets[source["secretRef"]["name"]]["data"].keys()
        known = SERVICES[name.replace(SESSIONS, "consumer")].get("environment", {})
        assert given - of_kubernetes <= known.keys(), name


def test_the_broker_is_asked_for_its_health_as_in_its_container() -> None:
    checked = SERVICES["mosquitto"]["healthcheck"]["test"].replace("$$", "$")
    one = container(pods(base())["mosquitto"])
    assert all(one[probe]["exec"]["command"] == ["sh", "-c", checked] for probe in PROBES)


def test_the_broker_knows_each_user_that_its_files_name() -> None:
    named = set(re.findall("@(MQTT_[A-Z0-9_]+_USERNAME)@", (ROOT / "mosquitto" / "acl").read_text()))
    secrets = of_kind(base(), "Secret")
    sources = container(pods(base())["mosquitto"])["envFrom"]
    given = {name for source in sources for name in secrets[source["secretRef"]["name"]]["data"]}
    assert named | {name.replace("USERNAME", "PASSWORD") for name in named} == given


def test_each_configuration_file_has_one_source() -> None:
    folders = {
        "mosquitto": "mosquitto",
        "collector": "collector",
        "collector-backends": "collector/backends",
        "gateway": "backends/scout-local",
    }
    seen: dict[str, set[str]] = {}
    for name, item in of_kind(base(), "ConfigMap").items():
        if folder := folders.get(name.rpartition("-")[0]):
            for file, text in item["data"].items():
                assert text == (ROOT / folder / file).read_text()
                seen.setdefault(folder, set()).add(file)
    assert seen["collector/backends"] == {path.name for path in ROOT.glob("collector/backends/*.yaml")}
    copied = re.findall(r"mosquitto/(\S+)", (ROOT / "mosquitto" / "Dockerfile").read_text())
    assert seen["mosquitto"] == {name for name in copied if (ROOT / "mosquitto" / name).is_file()}
    assert seen.keys() == set(folders.values())


def test_each_pod_of_the_consumers_has_a_user_at_the_broker() -> None:
    acl = (ROOT / "mosquitto" / "acl").read_text()
    ids = {name for line in re.findall("^clients (.*)$", acl, re.M) for name in line.split()}
    assert {f"consumer-{ordinal}" for ordinal in range(MOST_CONSUMERS)} <= ids
    assert set(consumer_names(MOST_CONSUMERS)) <= ids
    one = container(pods(base())["consumer"])
    variables = {variable["name"]: variable for variable in one["env"]}
    assert variables["MQTT_CLIENT_ID"]["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    # With 1, it would not join the shared subscription.
    assert variables["CONSUMERS"]["value"] == str(MOST_CONSUMERS)
    # The pod that ends sessions knows all of them.
    assert {"name": "CONSUMERS", "value": str(MOST_CONSUMERS)} in container(pods(base())[SESSIONS])["env"]


def test_with_partitions_each_has_one_owner_and_a_user_at_the_broker(built: dict[str, list[Resource]]) -> None:
    workload = workloads(built["partitions"])["consumer"]
    variables = {variable["name"]: variable.get("value") for variable in container(workload["spec"]["template"])["env"]}
    assert int(variables["CONSUMERS"]) == workload["spec"]["replicas"]
    acl = (ROOT / "mosquitto" / "acl").read_text()
    ids = {name for line in re.findall("^clients (.*)$", acl, re.M) for name in line.split()}
    assert {variables["MQTT_CLIENT_ID"].replace("{partition}", str(number)) for number in range(MOST_PARTITIONS)} <= ids
    (producer,) = (
        one for one in container(pods(built["partitions"])["producer"])["env"] if one["name"] == "PARTITIONS"
    )
    assert producer["value"] == variables["PARTITIONS"]


def test_a_variable_refers_only_to_one_above_it(resources: list[Resource]) -> None:
    """Otherwise Kubernetes leaves the text as it is."""
    for pod in pods(resources).values():
        above: set[str] = set()
        for variable in container(pod).get("env", []):
            assert set(re.findall(r"\$\((\w+)\)", variable.get("value", ""))) <= above, variable
            above.add(variable["name"])


@pytest.mark.parametrize(("protocol", "port"), [("http/protobuf", 4318), ("grpc", 4317)])
def test_settings_for_the_pods_hold_no_path_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str, port: int
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    settings = Settings(run_dir=tmp_path / "run")
    given = {
        patch["target"]["name"]: json.loads(patch["patch"])["spec"]["template"]["spec"]["containers"][0]["env"]
        for patch in KubernetesRuntime(settings)._patches()
    }
    assert not [one for variables in given.values() for one in variables if str(tmp_path) in one["value"]]
    assert not [one for variables in given.values() for one in variables if str(ROOT) in one["value"]]
    for service in ("producer", "consumer", "echo"):
        variables = {one["name"]: one["value"] for one in given[service]}
        assert variables["OTEL_EXPORTER_OTLP_PROTOCOL"] == protocol
        assert variables["OTEL_EXPORTER_OTLP_ENDPOINT"] == f"http://collector:{port}"


def test_the_operator_s_collector_is_ours(built: dict[str, list[Resource]]) -> None:
    (custom,) = of_kind(built["operator"], "OpenTelemetryCollector").values()
    spec, pod = custom["spec"], pods(base())["collector"]
    one = container(pod)
    assert spec["image"] == one["image"]
    assert spec["resources"] == one["resources"]
    assert spec["securityContext"] == one["securityContext"]
    assert spec["podSecurityContext"] == pod["spec"]["securityContext"]
    assert [source["secretRef"]["name"].startswith("scout-") for source in spec["envFrom"]] == [True]
    assert spec["env"] == [variable for variable in one["env"] if variable["name"] != "COLLECTOR_BIND"]

    def with_defaults(text: str) -> Any:
        text = text.replace("${env:COLLECTOR_BIND:-127.0.0.1}", "0.0.0.0")  # noqa: S104 (in a pod)
        return yaml.safe_load(re.sub(r"\$\{env:[A-Z_]+:-(.*?)\}", r"\1", text))

    ours = with_defaults((ROOT / "collector" / "config.yaml").read_text())
    assert with_defaults(yaml.safe_dump(spec["config"], width=1000)) == ours
    assert "collector" not in pods(built["operator"])


def test_the_auto_instrumentation_has_the_version_of_the_images(built: dict[str, list[Resource]]) -> None:
    (instrumentation,) = of_kind(built["operator"], "Instrumentation").values()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert instrumentation["spec"]["python"]["image"] == f"mqtt-tracing-autoinstrumentation:{version}"
    assert instrumentation["spec"]["exporter"]["endpoint"] == "http://collector:4318"


def test_what_scales_the_consumers_asks_for_a_metric_of_theirs(built: dict[str, list[Resource]]) -> None:
    resources = built["autoscaling"]
    (scaled,) = of_kind(resources, "ScaledObject").values()
    target = workloads(resources)[scaled["spec"]["scaleTargetRef"]["name"]]
    assert target["kind"] == scaled["spec"]["scaleTargetRef"]["kind"]
    assert "replicas" not in target["spec"]
    # At most as many as there are users; at least one, whose session keeps new readings.
    assert (scaled["spec"]["minReplicaCount"], scaled["spec"]["maxReplicaCount"]) == (1, MOST_CONSUMERS)
    (trigger,) = scaled["spec"]["triggers"]
    schema = yaml.safe_load((ROOT / "packages/telemetry/schema/metrics.yaml").read_text())
    known = {
        f"{group['metric_name'].replace('.', '_')}_seconds" for group in schema["groups"] if "metric_name" in group
    }
    assert set(re.findall(r"mqtt_\w+", trigger["metadata"]["query"])) <= known


def test_the_operator_s_rules_are_prometheus_s() -> None:
    (rule,) = of_kind(kustomize(str(KUBERNETES / "overlays" / "production")), "PrometheusRule").values()
    assert rule["spec"] == yaml.safe_load((ROOT / "backends/observability/prometheus/rules.yml").read_text())


def test_each_node_of_the_broker_is_one_that_the_others_know(built: dict[str, list[Resource]]) -> None:
    resources = built["artemis"]
    cluster = workloads(resources)["artemis"]
    nodes = [f"artemis-{ordinal}" for ordinal in range(cluster["spec"]["replicas"])]
    files = next(item["data"] for name, item in of_kind(resources, "ConfigMap").items() if name.startswith("artemis-"))
    assert re.findall(r'<connector name="([^"]+)">', files["broker.xml"]) == nodes
    assert re.findall("<connector-ref>([^$<]+)<", files["broker.xml"]) == nodes
    addresses = [f"{node}.{cluster['spec']['serviceName']}:61616" for node in nodes]
    assert re.findall(r"^-Dartemis-\d=(.*)$", files["start.sh"], re.M) == addresses
    # It is the version with which tests/test_brokers.py kills a node.
    image = container(cluster["spec"]["template"])["image"]
    assert (
        f"<version>{image.partition(':')[2].removesuffix('-alpine')}</version>"
        in (ROOT / "tests/brokers/artemis/pom.xml").read_text()
    )


def test_with_scout_the_collector_reads_its_four_values() -> None:
    secret = next(item for name, item in of_kind(base(), "Secret").items() if name.startswith("scout-"))
    assert secret["data"].keys() == set(SCOUT_VARIABLES)


# ---------------------------------------------------------------------- with a cluster

NAMESPACE = "mqtt-tracing-test"
# How to restart a node, each kind of cluster has its own way: docker restart kind-control-plane.
RESTART_NODE = os.environ.get("RESTART_NODE", "")
SAVING = "Saving in-memory database"
STEADY_SECONDS = 10.0
READINGS_PER_SECOND = 300
SLICE_SECONDS = 0.5
RESTRICTED = 'violates PodSecurity "restricted:'


def kubectl(*arguments: str, seconds: float = 300) -> subprocess.CompletedProcess[str]:
    """Runs kubectl in the current context."""
    command = ["kubectl", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)


def succeeds(*arguments: str, seconds: float = 300) -> str:
    """Runs kubectl, which must succeed; returns its output."""
    done = kubectl(*arguments, seconds=seconds)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@contextmanager
def forwarded(service: str, port: int, namespace: str = NAMESPACE) -> Iterator[int]:
    """A port of this machine that is forwarded to a port of a Service."""
    command = ["kubectl", "-n", namespace, "port-forward", f"service/{service}", f":{port}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline().rpartition(" -> ")[0].rpartition(":")[2])
        finally:
            process.terminate()


TAKEN_FILE = "/tmp/taken"  # noqa: S108 (in echo's pod)
NOTES_WHAT_IT_TAKES = f"""
kind: Deployment
metadata: {{name: echo}}
spec:
  template:
    spec:
      containers:
        - name: echo
          env:
            - {{name: OTEL_SERVICE_NAME, value: echo}}
            - {{name: PYTHONPATH, value: /opt/receiving}}
            - {{name: TAKEN_FILE, value: {TAKEN_FILE}}}
          volumeMounts: [{{name: receiving, mountPath: /opt/receiving}}]
      volumes: [{{name: receiving, configMap: {{name: receiving}}}}]
"""
HUNDRED_A_SECOND = """
kind: Deployment
metadata: {name: producer}
spec:
  template:
    spec:
      containers:
        - name: producer
          env: [{name: DEVICES, value: "100"}, {name: INTERVAL_SECONDS, value: "1"}]
"""
# Process 1 of a container cannot be killed from within; with this, the service is not process 1.
CAN_BE_KILLED = "- {op: add, path: /spec/template/spec/shareProcessNamespace, value: true}"
KILL = """
import os, pathlib
found = [int(path.parent.name) for path in pathlib.Path("/proc").glob("[0-9]*/cmdline")
         if path.read_bytes() == b"python\\0-m\\0consumer\\0"]
(consumer,) = found
os.kill(consumer, 9)
"""


@contextmanager
def deployed(folder: Path, overlay: dict[str, Any]) -> Iterator[None]:
    """Deploys an overlay in its own namespace, and removes everything afterwards."""
    namespace = overlay["namespace"]
    (folder / "kustomization.yaml").write_text(json.dumps(overlay))
    succeeds("apply", "-k", str(folder))
    try:
        for part in succeeds("-n", namespace, "get", "deployments,statefulsets", "-o", "name").split():
            succeeds("-n", namespace, "rollout", "status", part, "--timeout=240s")
        yield
    finally:
        succeeds("delete", "-k", str(folder), "--timeout=180s")
    assert namespace not in succeeds("get", "namespaces", "-o", "name").replace("namespace/", "").split()
    claims = ("get", "persistentvolumes", "-o", "jsonpath={.items[*].spec.claimRef.namespace}")
    eventually(lambda: namespace not in succeeds(*claims).split(), 60)


def noting(folder: Path, namespace: str, *components: str, **patched: str) -> dict[str, Any]:
    """An overlay of the base with an echo that notes the readings that it processes.

    Args:
        folder: The folder of the overlay.
        namespace: Its namespace.
        components: The components to add.
        patched: By the name of a StatefulSet: a patch.
    """
    from_here = Path(os.path.relpath(KUBERNETES, folder))
    (folder / "sitecustomize.py").write_text((RECEIVING / "sitecustomize.py").read_text())
    few = ["OTEL_TRACES_SAMPLER=parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG=0.01"]
    return {
        "namespace": namespace,
        "resources": [str(from_here / "base")],
        "components": [str(from_here / "components" / component) for component in components],
        "configMapGenerator": [
            {"name": "receiving", "files": ["sitecustomize.py"]},
            {"name": "telemetry", "behavior": "merge", "literals": few},
        ],
        "patches": [
            {"patch": NOTES_WHAT_IT_TAKES, "target": {"kind": "Deployment", "name": "echo"}},
            *({"patch": patch, "target": {"kind": "StatefulSet", "name": name}} for name, patch in patched.items()),
        ],
    }


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Deploys the base in its own namespace on the cluster of the current context, and removes everything afterwards.

    Echo notes the readings that it processes. Only a few of the readings that the test itself publishes are traced.
    """
    folder = tmp_path_factory.mktemp("cluster").resolve()
    with deployed(folder, noting(folder, NAMESPACE, consumer=CAN_BE_KILLED)):
        yield folder


needs_cluster = [pytest.mark.kubernetes, pytest.mark.timeout(900)]


def publish_one() -> str:
    """Publishes one reading in the producer's pod; returns its trace id."""
    variables = ["OTEL_TRACES_SAMPLER=always_on", "MQTT_PRODUCER_USERNAME=producer-once"]
    producer = ["exec", "deployment/producer", "--", "env", *variables, "python", "-m", "producer", "--once"]
    return json.loads(succeeds("-n", NAMESPACE, *producer).splitlines()[-1])["trace_id"]


def scale(replicas: int) -> None:
    """Scales the consumers and waits for new ones, but not for those that stop."""
    succeeds("-n", NAMESPACE, "scale", "statefulset/consumer", f"--replicas={replicas}")
    succeeds("-n", NAMESPACE, "rollout", "status", "statefulset/consumer", "--timeout=240s")


def log_of(what: str) -> str:
    """The whole log of a pod, or of a Deployment's pod."""
    return succeeds("-n", NAMESPACE, "logs", what, "--tail=-1")


class TakenOnCluster:
    """The file in which echo notes the readings that it processes."""

    def read_text(self) -> str:
        return succeeds("-n", NAMESPACE, "exec", "deployment/echo", "--", "cat", TAKEN_FILE)


class StackOnCluster:
    """What a publisher needs from a stack."""

    def __init__(self, mqtt_port: int) -> None:
        self.settings = Settings(_env_file=None, mqtt_port=mqtt_port)  # pyright: ignore[reportCallIssue] (it is pydantic-settings')
        self.taken = TakenOnCluster()


def steady() -> None:
    """Lets the stack run unchanged for a while."""
    time.sleep(STEADY_SECONDS)


@contextmanager
def loaded(stack: StackOnCluster) -> Iterator[Publisher]:
    """Publishes readings during the block; a reading counts as sent when the broker has acknowledged it."""
    publisher, ended = Publisher(stack), threading.Event()

    def publish() -> None:
        began, slices = time.monotonic(), 0
        while not ended.wait(max(0.0, began + slices * SLICE_SECONDS - time.monotonic())):
            publisher.send(round(READINGS_PER_SECOND * SLICE_SECONDS), devices=100)
            slices += 1
        print(f"{slices * SLICE_SECONDS * READINGS_PER_SECOND / (time.monotonic() - began):.0f} readings a second")

    with ThreadPoolExecutor() as pool:
        publishing = pool.submit(publish)
        try:
            yield publisher
        finally:
            ended.set()
        publishing.result(60)


class TestOnACluster:
    pytestmark = needs_cluster

    def test_one_reading_is_one_trace(self, cluster: Path) -> None:
        with forwarded("viewer", 8000) as port:
            trace_id, viewer = publish_one(), Viewer(port)
            eventually(lambda: (spans := viewer.trace(trace_id)) and is_whole(spans))

    def test_a_pod_that_may_do_more_than_restricted_ones_is_refused(self, cluster: Path) -> None:
        run = ("run", "more", "--image=busybox:1.37.0-musl", "--privileged", "--dry-run=server")
        done = kubectl("-n", NAMESPACE, *run)
        assert done.returncode != 0
        assert RESTRICTED in done.stderr

    @pytest.mark.parametrize("component", [name for name in COMPONENTS if name not in OF_OPERATORS])
    def test_the_api_server_takes_each_component(self, cluster: Path, component: str, tmp_path: Path) -> None:
        from_here = Path(os.path.relpath(KUBERNETES, tmp_path.resolve()))
        overlay = {
            "namespace": NAMESPACE,
            "resources": [str(from_here / "base")],
            "components": [str(from_here / "components" / component)],
        }
        (tmp_path / "kustomization.yaml").write_text(json.dumps(overlay))
        succeeds("apply", "-k", str(tmp_path), "--dry-run=server")

    @pytest.mark.skipif(not RESTART_NODE, reason="RESTART_NODE is not set: a command that restarts the cluster's node")
    def test_readings_outlive_a_restart_of_the_node(self, cluster: Path) -> None:
        # Before any test that scales: a session that is being emptied would reach echo, and its notes restart too.
        succeeds("-n", NAMESPACE, "scale", "statefulset/consumer", "--replicas=0")
        succeeds("-n", NAMESPACE, "wait", "--for=delete", "pod/consumer-0", "--timeout=60s")
        with forwarded("mosquitto", 1883) as port:
            publisher = Publisher(StackOnCluster(port))
            publisher.send(500)
        # Mosquitto writes every 2 s: what came after that is lost if the node loses its power.
        saved = log_of("mosquitto-0").count(SAVING)
        eventually(lambda: log_of("mosquitto-0").count(SAVING) > saved + 1)
        began = time.monotonic()
        subprocess.run(RESTART_NODE, shell=True, check=True, timeout=300)  # noqa: S602 (the person who runs the tests gives it)
        succeeds("-n", NAMESPACE, "scale", "statefulset/consumer", "--replicas=1")
        for part in succeeds("-n", NAMESPACE, "get", "deployments,statefulsets", "-o", "name").split():
            succeeds("-n", NAMESPACE, "rollout", "status", part, "--timeout=240s")
        publisher.ledger.settle(120)
        print(f"{time.monotonic() - began:.0f} s from the restart to the last reading")
        assert publisher.ledger.processed().keys() >= set(publisher.ledger.sent)
        trace_id = publish_one()
        with forwarded("viewer", 8000) as port:
            viewer = Viewer(port)
            eventually(lambda: (spans := viewer.trace(trace_id)) and is_whole(spans))
        publisher.close()

    @pytest.mark.timeout(1500)
    def test_consumers_that_scale_lose_nothing(self, cluster: Path) -> None:
        with forwarded("mosquitto", 1883) as port, loaded(StackOnCluster(port)) as publisher:
            steady()
            scale(5)
            steady()
            began = time.monotonic()
            scale(2)
            gone = [f"pod/consumer-{ordinal}" for ordinal in (2, 3, 4)]
            succeeds("-n", NAMESPACE, "wait", "--for=delete", *gone, "--timeout=120s")
            eventually(lambda: "ended: consumer-2=consumer-2" in log_of("deployment/sessions"), 120)
            seconds, ended = time.monotonic() - began, log_of("deployment/sessions").count("ended: ")
            steady()
            succeeds("-n", NAMESPACE, "rollout", "restart", "statefulset/consumer")
            succeeds("-n", NAMESPACE, "rollout", "status", "statefulset/consumer", "--timeout=240s")
            steady()
            for pod in ("consumer-0", "consumer-1"):
                succeeds("-n", NAMESPACE, "exec", pod, "--", "python", "-c", KILL)
            succeeds("-n", NAMESPACE, "rollout", "status", "statefulset/consumer", "--timeout=240s")
            steady()
        publisher.ledger.settle(300)
        sent = set(publisher.ledger.sent)
        left = len(sent & set(PROCESSED.findall(log_of("deployment/sessions"))))
        again = sum(taken[0] in sent for taken in publisher.ledger.taken("again"))
        print(f"scaled down in {seconds:.1f} s, {left} readings processed while leaving, {again} repeated")
        # They were killed, and have restarted.
        counts = (
            "get",
            "pods",
            "consumer-0",
            "consumer-1",
            "-o",
            "jsonpath={.items[*].status.containerStatuses[0].restartCount}",
        )
        assert succeeds("-n", NAMESPACE, *counts).split() == ["1", "1"]
        assert not publisher.ledger.lost()
        assert not publisher.ledger.dead_lettered()
        # A rolling update ends no session.
        assert log_of("deployment/sessions").count("ended: ") == ended
        publisher.close()

    def test_a_pod_comes_back_to_its_session(self, cluster: Path) -> None:
        # While the pod is away, the reading waits at the broker.
        succeeds("-n", NAMESPACE, "scale", "statefulset/consumer", "--replicas=0")
        succeeds("-n", NAMESPACE, "wait", "--for=delete", "pod/consumer-0", "--timeout=60s")
        trace_id = publish_one()
        succeeds("-n", NAMESPACE, "scale", "statefulset/consumer", "--replicas=1")
        succeeds("-n", NAMESPACE, "rollout", "status", "statefulset/consumer", "--timeout=120s")
        with forwarded("viewer", 8000) as port:
            viewer = Viewer(port)
            eventually(lambda: (spans := viewer.trace(trace_id)) and is_whole(spans))


SERVICES_OF_A_TRACE = {"plain", "consumer", "echo"}
OPERATOR_NAMESPACE = "mqtt-tracing-operator"
# A program without tracing, for the producer's image, which has paho.
PLAIN = """
import json, time
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
client.username_pw_set("operator", "operator-secret")
client.connect("mosquitto", 1883)
client.loop_start()
for reading in READINGS:
    client.publish("sensors/plain-001/reading", json.dumps(reading), qos=1).wait_for_publish(10)
client.disconnect()
client.loop_stop()
"""


@pytest.mark.kubernetes
@pytest.mark.timeout(900)
def test_with_the_operator_a_pod_without_a_line_of_tracing_starts_a_trace(tmp_path: Path) -> None:
    if kubectl("get", "crd", "opentelemetrycollectors.opentelemetry.io").returncode != 0:
        pytest.skip("the OpenTelemetry Operator is not in this cluster")
    from_here = Path(os.path.relpath(KUBERNETES, tmp_path.resolve()))
    overlay = {
        "namespace": OPERATOR_NAMESPACE,
        "resources": [str(from_here / "base")],
        "components": [str(from_here / "components" / "operator")],
    }
    with deployed(tmp_path, overlay):
        collector = (
            "-n",
            OPERATOR_NAMESPACE,
            "rollout",
            "status",
            "deployment/mqtt-tracing-collector",
            "--timeout=120s",
        )
        eventually(lambda: kubectl(*collector).returncode == 0, 120)
        pod = pods(base())["producer"]
        readings = [reading(device_id="plain-001", sequence=number) for number in range(10)]
        one = {
            **container(pod),
            "command": ["/venv/bin/python", "-c", PLAIN.replace("READINGS", repr(readings))],
            "name": "plain",
        }
        bare = {name: one[name] for name in ("name", "image", "imagePullPolicy", "command", "securityContext")}
        asks = {"instrumentation.opentelemetry.io/inject-python": "true"}
        plain = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "plain", "namespace": OPERATOR_NAMESPACE, "annotations": asks},
            "spec": {
                "restartPolicy": "Never",
                "securityContext": {**pod["spec"]["securityContext"], "runAsUser": 10001},
                "automountServiceAccountToken": False,
                "containers": [bare],
            },
        }
        (tmp_path / "plain.json").write_text(json.dumps(plain))
        succeeds("apply", "-f", str(tmp_path / "plain.json"))
        published = "--for=jsonpath={.status.phase}=Succeeded"
        succeeds("-n", OPERATOR_NAMESPACE, "wait", published, "pod/plain", "--timeout=60s")
        with forwarded("viewer", 8000, OPERATOR_NAMESPACE) as port:
            viewer, topic = Viewer(port), ("messaging.destination.name", "sensors/plain-001/reading")

            def whole() -> list[Span]:
                traces = [viewer.trace(trace_id) for trace_id in viewer.trace_ids(0, time.time_ns(), topic)]
                starts = [roots(spans) for spans in traces if {span.service for span in spans} == SERVICES_OF_A_TRACE]
                return [root for (root,) in starts if (root.service, root.kind) == ("plain", "Producer")]

            eventually(lambda: len(whole()) == len(readings), 60)


@pytest.fixture(scope="class")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack as `make up RUNTIME=kubernetes` starts it, forwarded to its own ports while a command runs."""
    assert not kubectl("get", "namespace", "mqtt-tracing").stdout, "a stack runs in this cluster"
    stack = Stack(tmp_path_factory.mktemp("run"), RUNTIME="kubernetes", INTERVAL_SECONDS="1")
    try:
        done = stack.run("up", seconds=400)
        assert done.returncode == 0, done.stdout + done.stderr
        yield stack
    finally:
        done = stack.run("down", seconds=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not kubectl("get", "namespace", "mqtt-tracing").stdout
    assert "the stack is not up" in stack.run("verify").stderr


class TestMake:
    pytestmark = needs_cluster

    def test_each_part_is_shown_and_healthy(self, made: Stack) -> None:
        eventually(lambda: made.run("ps").stdout.count("healthy") == len(pods(base())), 60)
        assert "processed reading" in made.run("logs", "consumer").stdout

    def test_a_reading_is_one_trace_and_is_shown(self, made: Stack) -> None:
        done = made.run("verify")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "One reading, one trace" in done.stdout
        assert "publish sensors/" in made.run("trace").stdout

    def test_the_doctor_finds_nothing(self, made: Stack) -> None:
        done = made.run("doctor")
        assert "All is well." in done.stdout, done.stdout + done.stderr

    def test_it_ends_its_port_forwards(self, made: Stack) -> None:
        assert all(map(port_is_free, made.settings.ports().values()))

    def test_settings_reach_the_pods(self, made: Stack) -> None:
        variables = KubernetesRuntime(made.settings).environment("producer")
        assert variables["INTERVAL_SECONDS"] == "1"
        assert variables["MQTT_PRODUCER_PASSWORD"] == "producer-secret"

    def test_a_part_that_is_stopped_is_named_and_comes_back(self, made: Stack) -> None:
        assert made.run("down", "echo").returncode == 0
        done = made.run("verify")
        assert done.returncode == 1
        assert "broken at consumer → HTTP" in done.stderr
        done = made.run("up", seconds=400)
        assert done.returncode == 0, done.stdout + done.stderr
        assert made.run("verify").returncode == 0

    def test_what_is_a_component_is_refused(self, made: Stack) -> None:
        done = Stack(made.settings.run_dir, **made.values | {"MQTT_TLS": "1"}).run("up")
        assert done.returncode == 1
        assert "RUNTIME is kubernetes, where MQTT_TLS cannot be set" in done.stderr


@pytest.mark.kubernetes
@pytest.mark.timeout(600)
def test_the_commands_of_the_page_work(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    stack.environment["RUNTIME"] = ""
    run = shell(stack, tmp_path)
    for block in sh_blocks(PAGE.read_text()):
        if listed(NOT_RUN, PAGE, block) == CLUSTER:
            done = run(block)
            assert done.returncode == 0, f"{block}{done.stdout}{done.stderr}"
    assert not kubectl("get", "namespace", "mqtt-tracing").stdout


@pytest.mark.kubernetes
def test_a_cluster_that_was_deleted_stands_in_nobody_s_way(tmp_path: Path) -> None:
    stack = Stack(tmp_path, RUNTIME="kubernetes")
    (tmp_path / "kubernetes").mkdir()
    (tmp_path / "kubernetes" / "context").write_text("kind-deleted")
    done = stack.run("down")
    assert (done.returncode, done.stderr) == (0, "")
    assert "kind-deleted is gone, and the stack with it." in done.stdout
    assert not (tmp_path / "kubernetes" / "context").exists()


@pytest.mark.kubernetes
def test_a_cluster_elsewhere_is_not_touched_unasked(tmp_path: Path) -> None:
    away = {"name": "away", "cluster": {"server": "https://192.0.2.1:6443"}}
    context = {"name": "production", "context": {"cluster": "away", "user": "nobody"}}
    config = {"current-context": "production", "clusters": [away], "contexts": [context], "users": [{"name": "nobody"}]}
    (tmp_path / "config").write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **config}))
    stack = Stack(tmp_path / "run", RUNTIME="kubernetes")
    stack.environment["KUBECONFIG"] = str(tmp_path / "config")
    done = stack.run("up")
    assert done.returncode == 1
    assert "production is the cluster at https://192.0.2.1:6443, not one of this machine" in done.stderr


@pytest.mark.kubernetes
@pytest.mark.timeout(900)
def test_a_cluster_of_brokers_loses_nothing_when_a_node_is_killed(tmp_path: Path) -> None:
    namespace = f"{NAMESPACE}-artemis"
    overlay = noting(tmp_path.resolve(), namespace, "artemis", artemis=CAN_BE_KILLED)
    overlay["replicas"] = [{"name": "consumer", "count": 4}]
    overlay["patches"].append({"patch": HUNDRED_A_SECOND, "target": {"kind": "Deployment", "name": "producer"}})

    def taken(which: str) -> list[list[str]]:
        notes = succeeds("-n", namespace, "exec", "deployment/echo", "--", "cat", TAKEN_FILE)
        return [line.split()[:-1] for line in notes.splitlines() if line.endswith(which)]

    def restarts(node: str) -> int:
        count = "jsonpath={.status.containerStatuses[0].restartCount}"
        return int(succeeds("-n", namespace, "get", "pod", node, "-o", count))

    def flow() -> None:
        wanted = len(taken("first")) + 500
        eventually(lambda: len(taken("first")) >= wanted, 120)

    with deployed(tmp_path, overlay):
        follow = ["kubectl", "-n", namespace, "logs", "-f", "deployment/producer"]
        with (tmp_path / "log").open("w") as output, subprocess.Popen(follow, stdout=output) as following:
            try:
                for node in ("artemis-0", "artemis-1"):
                    flow()
                    kubectl("-n", namespace, "exec", node, "--", "bash", "-c", "kill -9 -1")
                    eventually(lambda pod=node: restarts(pod), 60)
                    succeeds("-n", namespace, "rollout", "status", "statefulset/artemis", "--timeout=240s")
                flow()
                succeeds("-n", namespace, "scale", "deployment/producer", "--replicas=0")
                following.wait(60)
            finally:
                following.kill()
        (sent,) = re.findall(r"stopping after (\d+) readings; 0 more", (tmp_path / "log").read_text())
        eventually(lambda: len({reading[0] for reading in taken("first")}) >= int(sent), 60)
        first = taken("first")
        processed = {reading[0] for reading in first}
        print(
            f"sent {sent}, processed {len(processed)}, twice {len(first) - len(processed)}, again {len(taken('again'))}"
        )
        assert len(first) == len(processed) == int(sent)
