"""Each backend holds what was sent, as its own API reports."""

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

import pytest
import requests

from harness import Stack, eventually, stopped
from stack.part import local_url
from stack.settings import Settings
from stack.trace import roots
from stack.trace_backends import Zipkin

INSTRUMENTATION_KEY = "11111111-2222-3333-4444-555555555555"


class Ingestion:
    """An ingestion endpoint of Azure Monitor on this machine, which keeps the envelopes that it receives."""

    def __init__(self) -> None:
        self.envelopes: list[dict[str, Any]] = []
        recorded = self.envelopes

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                found = [json.loads(line) for line in body.decode().splitlines() if line]
                recorded.extend({"path": self.path, **envelope} for envelope in found)
                answer = json.dumps({"itemsReceived": len(found), "itemsAccepted": len(found), "errors": []}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class calls it so)
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def connection_string(self) -> str:
        """The connection string for this endpoint."""
        address = f"http://127.0.0.1:{self._server.server_port}/"
        return f"InstrumentationKey={INSTRUMENTATION_KEY};IngestionEndpoint={address}"

    def of_type(self, base_type: str) -> list[dict[str, Any]]:
        """The envelopes of one kind."""
        return [envelope for envelope in self.envelopes if envelope["data"]["baseType"] == base_type]

    def close(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def ingestion() -> Iterator[Ingestion]:
    ingestion = Ingestion()
    yield ingestion
    ingestion.close()


@pytest.fixture(scope="module")
def backends(new_shared_stack: Callable[..., Stack], ingestion: Ingestion) -> Stack:
    stack = new_shared_stack(
        BACKENDS="zipkin,prometheus,azuremonitor",
        COLLECTOR_EXTRAS="zipkin",
        APPLICATIONINSIGHTS_CONNECTION_STRING=ingestion.connection_string,
        OTEL_METRIC_EXPORT_INTERVAL="1000",
    )
    stack.up()
    return stack


def verified(stack: Stack, *backend: str) -> str:
    """The output of ``make verify``, which must succeed."""
    done = stack.run("verify", *backend)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_up_names_the_page_of_each_backend(backends: Stack) -> None:
    done = backends.run("up")
    assert f"Zipkin:     {local_url(backends.settings.zipkin_port)}" in done.stdout
    assert f"Prometheus: {local_url(backends.settings.prometheus_port)}" in done.stdout


def test_zipkin_holds_the_whole_trace(backends: Stack) -> None:
    lines = verified(backends, "zipkin").splitlines()
    trace_id = lines[-1].rsplit("/", 1)[1]
    found = requests.get(local_url(backends.settings.zipkin_port, f"/api/v2/trace/{trace_id}"), timeout=10).json()
    by_kind = {span["kind"]: span for span in found}
    assert set(by_kind) == {"PRODUCER", "CONSUMER", "CLIENT", "SERVER"}
    assert by_kind["CONSUMER"]["parentId"] == by_kind["PRODUCER"]["id"]
    assert by_kind["PRODUCER"]["tags"]["messaging.destination.name"] == "sensors/sensor-001/reading"
    assert by_kind["SERVER"]["localEndpoint"]["serviceName"] == "echo"
    # The viewer, in place of Scout, got it too: backends are added and replace nothing.
    assert eventually(lambda: len(backends.viewer.trace(trace_id)) == 4)


def test_prometheus_counts_the_reading(backends: Stack) -> None:
    assert "Prometheus has counted the reading" in verified(backends, "prometheus")


def test_azure_monitor_gets_traces_metrics_and_logs(backends: Stack, ingestion: Ingestion) -> None:
    lines = verified(backends, "azuremonitor").splitlines()
    trace_id = lines[-1].rsplit(" ", 1)[1]

    def of_trace() -> list[dict[str, Any]]:
        return [one for one in ingestion.envelopes if one["tags"].get("ai.operation.id") == trace_id]

    def names() -> set[str]:
        return {one["data"]["baseData"].get("name", one["data"]["baseType"]) for one in of_trace()}

    topic = "sensors/sensor-001/reading"
    eventually(lambda: {f"publish {topic}", f"process {topic}", "POST", "POST /echo", "MessageData"} <= names())
    kinds = {one["data"]["baseType"] for one in of_trace()}
    assert kinds == {"RequestData", "RemoteDependencyData", "MessageData"}
    assert all(one["iKey"] == INSTRUMENTATION_KEY for one in ingestion.envelopes)
    assert {one["path"] for one in ingestion.envelopes} == {"/v2.1/track"}
    (process,) = [one for one in of_trace() if one["data"]["baseData"].get("name", "").startswith("process ")]
    (publish,) = [one for one in of_trace() if one["data"]["baseData"].get("name", "").startswith("publish ")]
    assert process["tags"]["ai.operation.parentId"] == publish["data"]["baseData"]["id"]
    assert process["tags"]["ai.cloud.role"] == "mqtt-tracing.consumer"
    assert process["data"]["baseData"]["properties"]["messaging.destination.name"] == "sensors/sensor-001/reading"

    def measured() -> set[str]:
        metrics = ingestion.of_type("MetricData")
        return {point["name"] for one in metrics for point in one["data"]["baseData"]["metrics"]}

    eventually(lambda: "messaging.process.duration" in measured())


def test_a_client_that_speaks_zipkin_is_heard(backends: Stack) -> None:
    trace_id = uuid4().hex
    span = {
        "traceId": trace_id,
        "id": trace_id[:16],
        "name": "legacy",
        "kind": "CLIENT",
        "timestamp": time.time_ns() // 1000,
        "duration": 1000,
        "localEndpoint": {"serviceName": "legacy-service"},
        "tags": {"site": "hall"},
    }
    url = local_url(backends.settings.zipkin_receiver_port, "/api/v2/spans")
    assert requests.post(url, json=[span], timeout=10).status_code == 202
    (seen,) = eventually(lambda: backends.viewer.trace(trace_id))
    assert (seen.name, seen.kind, seen.service, seen.attributes["site"]) == (
        "legacy",
        "Client",
        "legacy-service",
        "hall",
    )
    (kept,) = eventually(lambda: Zipkin(backends.settings.zipkin_port).trace(trace_id))
    assert kept.service == "legacy-service"


def test_a_backend_that_is_away_disturbs_nobody_else(backends: Stack) -> None:
    since = time.time_ns()
    with stopped(backends, "zipkin"):
        verified(backends)
        verified(backends, "prometheus")
        done = backends.run("verify", "zipkin")
        assert done.returncode == 1
        assert done.stderr.startswith("error: zipkin does not answer at ")
        assert "is it in BACKENDS?" in done.stderr
    # When Zipkin is back, it has what was sent meanwhile: Zipkin had lost everything, but the Collector had queued it.
    waiting = backends.viewer.trace_ids(since, time.time_ns())
    assert eventually(lambda: any(roots(Zipkin(backends.settings.zipkin_port).trace(trace_id)) for trace_id in waiting))


@pytest.mark.parametrize("backend", ["jaeger", "grafana"])
def test_a_backend_without_a_local_form_is_one_line(new_stack: Callable[..., Stack], backend: str) -> None:
    stack = new_stack(BACKENDS=backend)
    done = stack.run("up")
    assert done.returncode == 1
    expected = f"error: BACKENDS has {backend}, which the local runtime cannot run; with Docker: make up RUNTIME=docker"
    assert done.stderr.strip() == expected


def test_no_port_is_taken_for_a_backend_that_is_off() -> None:
    names = Settings(_env_file=None).ports()  # pyright: ignore[reportCallIssue] (pydantic-settings takes it)
    assert not {"ZIPKIN_PORT", "PROMETHEUS_PORT", "JAEGER_PORT", "GRAFANA_PORT"} & names.keys()
