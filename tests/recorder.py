"""A Scout that keeps what it receives: the OTLP that the stack emits, after its own Collector."""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import ResourceLogs
from opentelemetry.proto.metrics.v1.metrics_pb2 import ResourceMetrics
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans

from stack.part import local_url


class Recorder:
    """What has arrived of each signal."""

    def __init__(self, port: int) -> None:
        self.spans: list[ResourceSpans] = []
        self.metrics: list[ResourceMetrics] = []
        self.logs: list[ResourceLogs] = []
        self.scout_values = {
            "SCOUT_CLIENT_ID": "recorder",
            "SCOUT_CLIENT_SECRET": "recorder-secret",
            "SCOUT_TOKEN_URL": local_url(port, "/oauth2/token"),
            "SCOUT_OTLP_ENDPOINT": local_url(port),
        }

    def take(self, path: str, body: bytes) -> None:
        """Keeps the content of one request."""
        match path:
            case "/v1/traces":
                self.spans += ExportTraceServiceRequest.FromString(body).resource_spans
            case "/v1/metrics":
                self.metrics += ExportMetricsServiceRequest.FromString(body).resource_metrics
            case "/v1/logs":
                self.logs += ExportLogsServiceRequest.FromString(body).resource_logs
            case _:
                raise ValueError(path)


@contextmanager
def recording() -> Iterator[Recorder]:
    """Runs a recorder on a free port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/oauth2/token":
                answer = {"access_token": "recorder-token", "token_type": "bearer", "expires_in": 3600}
                return self.answer("application/json", json.dumps(answer).encode())
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            recorder.take(self.path, body)
            # An empty response means that everything was accepted.
            return self.answer("application/x-protobuf", b"")

        def answer(self, content_type: str, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the library's name)
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        recorder = Recorder(server.server_port)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield recorder
        server.shutdown()
