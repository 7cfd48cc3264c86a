"""Metrics, alerts and dashboards.

promtool and Grafana's published types check the files. A Prometheus with the measurements of a stack evaluates each
expression in them.
"""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from harness import Stack, eventually
from prepare import grafana_types
from producer.sensor import Sensor
from stack import build
from stack.errors import StackError
from stack.part import local_url
from stack.settings import ROOT
from stack.trace import Span

PROMETHEUS = ROOT / "backends" / "observability" / "prometheus"
GRAFANA = ROOT / "backends" / "observability" / "grafana"
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in sorted((GRAFANA / "dashboards").glob("*.json"))}
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"] for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES}
# The target of each query of each panel, by dashboard, panel and legend.
QUERIES = {
    (uid, panel["title"], panel["type"], target["legendFormat"]): target
    for uid, dashboard in DASHBOARDS.items()
    for panel in dashboard["panels"]
    for target in panel["targets"]
}
# The values that Grafana gives its macros: at least four scrapes, and half an hour.
MACROS = {"$__rate_interval": "20s", "$__range": "30m"}


def expression(target: dict[str, Any]) -> str:
    """The query as Grafana sends it."""
    text: str = target["expr"]
    for macro, value in MACROS.items():
        text = text.replace(macro, value)
    return text


# ---------------------------------------------------------------------- the files


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)


def test_prometheus_accepts_its_configuration_and_the_rules() -> None:
    done = promtool("check", "config", PROMETHEUS / "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(RULES)} rules found" in done.stdout


def test_each_alert_fires_when_it_should_and_not_otherwise() -> None:
    done = promtool("test", "rules", PROMETHEUS / "rules_test.yml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("instead", ["vector(1) > 1", "vector(1)"], ids=["never", "always"])
def test_the_rule_tests_notice_alerts_that_are_wrong(instead: str, tmp_path: Path) -> None:
    rules = [{"alert": alert, "expr": instead} for alert in ALERTS]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "wrong", "rules": rules}]}))
    (tmp_path / "rules_test.yml").write_text((PROMETHEUS / "rules_test.yml").read_text())
    done = promtool("test", "rules", tmp_path / "rules_test.yml")
    expected = "exp:[]" if instead == "vector(1)" else "got:[]"
    failures = [failure for failure in done.stderr.split("alertname: ")[1:] if expected in re.sub(r"\s", "", failure)]
    assert {failure.split(",")[0] for failure in failures} == set(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_says_what_to_look_at(alert: str) -> None:
    assert ALERTS[alert]["labels"]["severity"] in ("warning", "critical")
    assert set(ALERTS[alert]["annotations"]) == {"summary", "description"}
    assert alert in (ROOT / "backends" / "observability" / "README.md").read_text()


BREAKS = [
    ('"schemaVersion": 42', '"schemaVersion": "42"'),
    ('"graphTooltip": 1', '"graphTooltip": 7'),
    ('"editable"', '"editible"'),
    ('"type": "stat"', '"type": "stats"'),
    ('"drawStyle": "line"', '"drawStyle": "lines"'),
    ('"displayMode": "list"', '"displayMode": "lists"'),
    ('"mode": "absolute"', '"mode": "total"'),
    ('"expr"', '"query"'),
    ('"unit"', '"units"'),
    ('"uid": "prometheus"', '"uid": "another"'),
]


def test_the_dashboards_are_of_the_type_that_grafana_publishes_and_broken_ones_are_not(tmp_path: Path) -> None:
    files = {uid: json.dumps(dashboard) for uid, dashboard in DASHBOARDS.items()}
    for number, (right, wrong) in enumerate(BREAKS):
        assert right in files["readings"]
        files[f"broken-{number}"] = files["readings"].replace(right, wrong)
    (tmp_path / "node_modules").symlink_to(grafana_types())
    (tmp_path / "dashboard.ts").write_text((GRAFANA / "schema" / "dashboard.ts").read_text())
    for name, text in files.items():
        declared = f"import type {{Dashboard}} from './dashboard';\nexport const it: Dashboard = {text};\n"
        (tmp_path / f"{name}.ts").write_text(declared)
    compiler = ["node_modules/.bin/tsc", "--noEmit", "--strict", "--skipLibCheck", "--preserveSymlinks"]
    options = ["--target", "es2022", "--module", "nodenext"]
    done = subprocess.run(
        [*compiler, *options, *(f"{name}.ts" for name in files)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    refused = set(re.findall(r"^(\S+)\.ts\(.*error TS", done.stdout, re.M))
    assert refused == {f"broken-{number}" for number in range(len(BREAKS))}, done.stdout + done.stderr


@pytest.fixture
def empty_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty PATH and an empty cache."""
    monkeypatch.setattr(build, "SYSTEM_FOLDERS", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_without_npm_the_tests_say_what_to_install(empty_machine: Path) -> None:
    with pytest.raises(StackError, match=r"npm is not installed.*apt-get install npm"):
        grafana_types()


def test_types_that_npm_cannot_fetch_are_an_error_and_leave_nothing(empty_machine: Path) -> None:
    npm = empty_machine / "npm"
    npm.write_text("#!/bin/sh\necho no such package >&2\nexit 1\n")
    npm.chmod(0o755)
    with pytest.raises(StackError, match="npm could not fetch Grafana's types:\nno such package"):
        grafana_types()
    assert not list(empty_machine.rglob("node_modules"))


def test_the_types_are_those_of_the_image() -> None:
    image = re.search(r"^FROM grafana/grafana:(\S+)$", (GRAFANA / "Dockerfile").read_text(), re.M)
    manifest = json.loads((GRAFANA / "schema" / "package.json").read_text())
    assert image
    assert manifest["devDependencies"]["@grafana/schema"] == image[1]


def test_the_lock_file_names_no_place_of_a_package() -> None:
    assert "://" not in (GRAFANA / "schema" / "package-lock.json").read_text()


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_a_dashboard_is_readable_and_its_panels_do_not_overlap(uid: str) -> None:
    dashboard = DASHBOARDS[uid]
    assert dashboard["uid"] == uid
    written = (GRAFANA / "dashboards" / f"{uid}.json").read_text()
    assert written == json.dumps(dashboard, indent=2, ensure_ascii=False) + "\n"
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_the_data_sources_are_those_of_the_backends() -> None:
    provisioned = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "backends.yaml").read_text())[
        "datasources"
    ]
    assert {source["uid"]: source["type"] for source in provisioned} == {
        "prometheus": "prometheus",
        "jaeger": "jaeger",
        "zipkin": "zipkin",
    }
    (prometheus,) = [source for source in provisioned if source["uid"] == "prometheus"]
    links = prometheus["jsonData"]["exemplarTraceIdDestinations"]
    assert {link["name"] for link in links} == {"trace_id"}
    assert links[0]["url"] == "http://127.0.0.1:$VIEWER_PORT/traces/$${__value.raw}"


# ---------------------------------------------------------------------- a stack with Prometheus


class Metrics:
    """Queries a running Prometheus."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._url = local_url(stack.settings.prometheus_port, "/api/v1")

    def ask(self, path: str, **parameters: object) -> Any:
        answer = requests.get(
            f"{self._url}/{path}", params={k: str(v) for k, v in parameters.items()}, timeout=10
        ).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def values(self, query: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series that a query returns now."""
        data = self.ask("query", query=query)
        assert data["resultType"] == "vector"
        return [(entry["metric"], float(entry["value"][1])) for entry in data["result"]]

    def panel(self, uid: str, title: str, kind: str = "timeseries") -> dict[str, list[tuple[dict[str, str], float]]]:
        """The current result of each query of a panel, by legend."""
        return {
            legend: self.values(expression(target))
            for (dashboard, panel, type_, legend), target in QUERIES.items()
            if (dashboard, panel, type_) == (uid, title, kind)
        }

    def number(self, uid: str, title: str) -> float:
        """What a stat panel shows."""
        (values,) = self.panel(uid, title, "stat").values()
        ((_, value),) = values
        return value


def reading(device_id: str) -> str:
    return Sensor(device_id).read()


@pytest.fixture(scope="module")
def metrics(new_shared_stack: Callable[..., Stack]) -> Metrics:
    """A Prometheus that has seen ordinary readings, one without a context, and an invalid one."""
    stack = new_shared_stack(BACKENDS="prometheus", OTEL_METRIC_EXPORT_INTERVAL="1000", SILENT_SECONDS="8", DEVICES="4")
    stack.up()
    metrics = Metrics(stack)
    stack.publish_with_mosquitto_pub("sensors/legacy-001/reading", reading("legacy-001"), "-V", "mqttv311")
    stack.publish_with_mosquitto_pub("sensors/broken-001/reading", "no JSON", "-V", "mqttv5")
    eventually(lambda: metrics.number("readings", "Missing contexts") == 2, 60)
    eventually(lambda: metrics.number("readings", "Dead letters") == 1, 60)
    # These two sensors send no more.
    eventually(lambda: metrics.number("readings", "Silent sensors") == 2, 60)
    # The rates have a whole window.
    eventually(lambda: 1 < metrics.number("readings", "Readings per second") < 4, 60)
    # Spans come later than metrics.
    eventually(lambda: len(service_map(metrics)) >= 2, 60)
    eventually(lambda: any(metrics.panel("readings", "Failed spans").values()), 60)
    eventually(lambda: len(*metrics.panel("readings", "Calls between services").values()) >= 2, 60)
    return metrics


def service_map(metrics: Metrics) -> set[tuple[str, str]]:
    """The edges that the panel shows, without those of one side only."""
    (shown,) = metrics.panel("readings", "Service map", "nodeGraph").values()
    found = [labels for labels, _ in shown if labels.get("connection_type") != "virtual_node"]
    # What Grafana needs of an edge.
    assert all(labels["id"] for labels in found)
    return {(labels["source"], labels["target"]) for labels in found}


# Queries without data, because no such failure or drop has happened.
WITHOUT_DATA = {
    ("readings", "Errors", "publish: {{error_type}}"),
    ("readings", "Errors", "retry: {{error_type}}"),
    ("readings", "Dropped readings", "{{service_instance_id}}"),
}


@pytest.mark.parametrize("query", QUERIES, ids=" ".join)
def test_each_query_of_a_panel_has_data(query: tuple[str, str, str, str], metrics: Metrics) -> None:
    uid, title, _, legend = query
    found = metrics.values(expression(QUERIES[query]))
    assert bool(found) == ((uid, title, legend) not in WITHOUT_DATA)
    for labels, value in found:
        assert 0 <= value < float("inf"), labels
        assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= set(labels)


def test_the_dashboard_is_drawn_with_its_series(metrics: Metrics, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "docs" / "dashboard.py"), str(tmp_path)]
    subprocess.run(command, env=metrics.stack.environment, check=True, timeout=60)
    written = (tmp_path / "dashboard.svg").read_text()
    assert all(f">{name}<" in written for name in ("Readings per second", "published", "delivered", "answered by echo"))
    assert "no data" not in written


def test_the_service_map_shows_who_reaches_whom(metrics: Metrics, tmp_path: Path) -> None:
    assert service_map(metrics) == {("producer", "consumer"), ("consumer", "echo")}
    command = [sys.executable, str(ROOT / "docs" / "service_map.py"), str(tmp_path)]
    subprocess.run(command, env=metrics.stack.environment, check=True, timeout=60)
    drawn = set(re.findall(r">(\w+), \d+ times<", (tmp_path / "service-map.svg").read_text().replace("&#160;", " ")))
    assert drawn == {"MQTT", "HTTP"}


def test_no_device_is_a_label_of_the_metrics_of_spans(metrics: Metrics) -> None:
    found = metrics.values('{__name__=~"traces_.*"}')
    assert found
    assert not [labels for labels, _ in found if "sensor" in "".join(labels.values())]


def test_the_counts_are_those_of_the_traffic(metrics: Metrics) -> None:
    assert metrics.panel("readings", "Missing context") == {"{{service_name}}": [({"service_name": "consumer"}, 2)]}
    assert metrics.panel("readings", "Dead letters") == {"{{error_type}}": [({"error_type": "422"}, 1)]}
    failed = {"service_name": "consumer", "error_type": "422"}
    # The process span, and the request in it.
    assert metrics.panel("readings", "Failed spans") == {"{{service_name}}: {{error_type}}": [(failed, 2)]}
    errors = metrics.panel("readings", "Errors")
    assert errors["request to echo: {{error_type}}"] == [({"error_type": "422"}, 1)]

    # Four sensors, each every two seconds.
    def rates() -> list[float]:
        return [rate for ((_, rate),) in metrics.panel("readings", "Readings").values()]

    # A busy machine may delay readings for a moment.
    eventually(lambda: all(1 < rate < 4 for rate in rates()))


@pytest.mark.parametrize(
    "title", ["Publish acknowledgement time", "Processing time", "End-to-end age", "Echo's answer time"]
)
def test_the_times_are_in_seconds_and_in_order(title: str, metrics: Metrics) -> None:
    times = [value for ((_, value),) in metrics.panel("readings", title).values()]
    assert times == sorted(times)
    assert 0 < times[0] <= times[-1] < 30


def test_the_stack_is_seen_whole(metrics: Metrics) -> None:
    assert metrics.number("stack-health", "Scrapes") == 1
    assert metrics.number("stack-health", "Lost since the Collector's start") == 0
    assert metrics.number("stack-health", "Fullest queue") < 0.01
    services = {"consumer", "echo", "producer"}
    for title, lowest, highest in (("CPU", 0, 2), ("Memory", 10e6, 1e9)):
        by_service, ((_, collector),) = metrics.panel("stack-health", title).values()
        assert {labels["service_name"] for labels, _ in by_service} == services
        assert all(lowest < value < highest for value in (collector, *(value for _, value in by_service)))
    for legend, sent in metrics.panel("stack-health", "Sent by the Collector").items():
        rates = {labels["exporter"]: value for labels, value in sent}
        exporters = {"debug", "otlp_http/b14"} | ({"prometheus"} if "points" in legend else set())
        assert set(rates) == exporters
        assert all(rates.values())
    queues = metrics.panel("stack-health", "Queues")
    assert {value for _, value in queues["{{exporter}} {{data_type}}, capacity"]} == {200_000}
    assert {labels["data_type"] for labels, _ in queues["{{exporter}} {{data_type}}"]} == {"traces", "metrics", "logs"}


def test_prometheus_evaluates_each_alert_and_fires_those_that_it_should(metrics: Metrics) -> None:
    def states() -> dict[str, str]:
        rules = [rule for group in metrics.ask("rules")["groups"] for rule in group["rules"]]
        assert {rule["health"] for rule in rules} <= {"ok", "unknown"}, rules
        return {rule["name"]: rule["state"] for rule in rules}

    wrong = {"MissingContext", "DeadLetters", "SilentSensors"}
    found = {name: metrics.values(rule["expr"]) for name, rule in ALERTS.items()}
    assert {name for name, values in found.items() if values} == wrong
    assert found["MissingContext"] == [({"service_name": "consumer"}, 2)]
    assert found["DeadLetters"] == [({"error_type": "422"}, 1)]
    assert found["SilentSensors"] == [({}, 2)]
    # The alert for silent sensors fires a minute later.
    firing = {"MissingContext": "firing", "DeadLetters": "firing"}
    eventually(lambda: firing.items() <= states().items() and states()["SilentSensors"] != "inactive")
    assert {name for name, state in states().items() if state != "inactive"} == wrong
    assert metrics.number("stack-health", "Alerts") >= 2


@pytest.mark.parametrize(
    ("title", "kind"),
    [
        ("Publish acknowledgement time", "Producer"),
        ("Processing time", "Consumer"),
        ("End-to-end age", "Consumer"),
        ("Echo's answer time", "Server"),
        ("Span duration, p95", "Producer Consumer Client Server"),
    ],
)
def test_an_exemplar_leads_to_its_trace_in_the_viewer(title: str, kind: str, metrics: Metrics) -> None:
    (target,) = [
        target
        for (uid, panel, *_), target in QUERIES.items()
        if (uid, panel) == ("readings", title) and target.get("exemplar")
    ]
    (now,) = (value for _, value in metrics.values("vector(time())"))

    def exemplars() -> list[dict[str, Any]]:
        found = metrics.ask("query_exemplars", query=expression(target), start=now - 1800, end=now + 1800)
        return [exemplar for series in found for exemplar in series["exemplars"]]

    labels = eventually(exemplars)[0]["labels"]

    def span() -> list[Span]:
        return [span for span in metrics.stack.viewer.trace(labels["trace_id"]) if span.span_id == labels["span_id"]]

    (found,) = eventually(span)
    assert found.kind in kind.split()


@contextmanager
def refusing(port: int) -> Iterator[None]:
    """A backend that permanently refuses everything."""

    class Refuse(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_error(400)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name there)
            """Logs nothing, because it would go to the tests' output."""

    with HTTPServer(("127.0.0.1", port), Refuse) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


def test_what_a_backend_refuses_is_seen_as_lost(metrics: Metrics) -> None:
    stack = metrics.stack
    stack.stop_part("gateway")
    try:
        with refusing(stack.settings.gateway_port):
            ((labels, lost),) = eventually(lambda: metrics.values(ALERTS["ExportsFail"]["expr"]), 60)
    finally:
        stack.start_part("gateway")
    assert labels == {"exporter": "otlp_http/b14"}
    assert lost >= 1
    assert metrics.number("stack-health", "Lost since the Collector's start") >= 1
    shown = {
        labels["exporter"]: value for labels, value in metrics.panel("stack-health", "Failed exports")["{{exporter}}"]
    }
    assert shown["otlp_http/b14"] >= 1
    assert shown["debug"] == shown["prometheus"] == 0
