"""An HTTP server that slow or many clients cannot block, for services that use uvicorn and Starlette."""

import asyncio
import signal
from collections.abc import Sequence

import h11
import uvicorn
from starlette.applications import Starlette
from starlette.middleware.trustedhost import TrustedHostMiddleware
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS = 5.0
"""How long a client may take for a whole request, head and body. uvicorn bounds the time between two of them only."""
CONNECTIONS = 512
"""How many connections are served; the requests of more are answered 503."""


class ImpatientProtocol(H11Protocol):
    """Drops a connection whose request is not complete in time, and at once a connection beyond the limit."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Expects the first request."""
        super().connection_made(transport)
        # Leaves room for connections that are answered with 503.
        if len(self.connections) > 1.5 * CONNECTIONS:
            transport.abort()
        else:
            self._expect_request()

    def data_received(self, data: bytes) -> None:
        """Takes a part of a request; the wait begins with its first byte and ends with its last."""
        if self._deadline is None:
            self._expect_request()
        super().data_received(data)
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops waiting for a request."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _expect_request(self) -> None:
        self._deadline = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def serve(app: Starlette, host: str, port: int, allowed_hosts: Sequence[str], *, access_log: bool = True) -> None:
    """Serves until SIGTERM, and then answers the requests in progress.

    Args:
        app: The application.
        host: The address to listen on.
        port: The port to listen on.
        allowed_hosts: The allowed Host headers, without the port; any other is answered with 400. This stops web pages
            whose domain resolves to this machine (DNS rebinding), because they send their own Host header.
        access_log: Whether each request is logged.
    """
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=allowed_hosts)
    # uvicorn raises the signal again after it has stopped, which would end the process before its telemetry is flushed.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    uvicorn.run(
        app,
        host=host,
        port=port,
        http=ImpatientProtocol,
        limit_concurrency=CONNECTIONS,
        log_config=None,
        access_log=access_log,
        timeout_graceful_shutdown=2,
        # Otherwise a request can run inside the span of the previous request on the same connection.
        reset_contextvars=True,
    )
