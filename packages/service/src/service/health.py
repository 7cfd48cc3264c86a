"""``/livez`` and ``/readyz`` over HTTP: tell others whether a service is alive, and whether it works."""

import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol

from service.broker import BrokerSettings

# The longest wait for the next byte of a request.
TIMEOUT_SECONDS = 2.0


class Probed(Protocol):
    """The object whose health is served: a consumer or a publisher of mqtt-delivery."""

    @property
    def live(self) -> bool:
        """False if only a restart helps."""
        ...

    @property
    def healthy(self) -> bool:
        """Whether it does its work."""
        ...


def serve_health(settings: BrokerSettings, probed: Probed) -> None:
    """Answers on ``HEALTH_HOST`` and ``HEALTH_PORT``, in the background; without a port it does nothing.

    ``/livez`` and ``/readyz`` answer 200 or 503, as Kubernetes and load balancers expect.

    Raises:
        SystemExit: It cannot listen there; one line on standard error says so.
    """
    if settings.health_port is None:
        return
    probes = {"/livez": lambda: probed.live, "/readyz": lambda: probed.healthy}

    class Handler(BaseHTTPRequestHandler):
        timeout = TIMEOUT_SECONDS

        def do_GET(self) -> None:
            probe = probes.get(self.path)
            if probe is None:
                status = HTTPStatus.NOT_FOUND
            else:
                status = HTTPStatus.OK if probe() else HTTPStatus.SERVICE_UNAVAILABLE
            self.send_response_only(status)
            self.end_headers()
            self.wfile.write(b"ok\n" if status == HTTPStatus.OK else b"not ok\n")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the library's name)
            """Logs nothing, because probes come every few seconds."""

    try:
        server = ThreadingHTTPServer((settings.health_host, settings.health_port), Handler)
    except OSError as error:
        where = f"HEALTH_HOST is {settings.health_host!r} and HEALTH_PORT {settings.health_port}"
        sys.stderr.write(f"{where}; nobody can listen there: {error}\n")
        raise SystemExit(2) from None
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
