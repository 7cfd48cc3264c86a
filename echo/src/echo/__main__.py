"""Serves echo, traced by the FastAPI instrumentation."""

import signal

import uvicorn
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

from echo.app import app
from echo.settings import Settings
from service import load_settings
from telemetry import setup_telemetry, shutdown_telemetry


def main() -> None:
    """Serves until SIGTERM, then answers what is under way and flushes the telemetry."""
    settings = load_settings(Settings)
    setup_telemetry("echo")
    # One span for a request is enough: not one more for each ASGI event.
    FastAPIInstrumentor.instrument_app(app, exclude_spans=["receive", "send"])
    # uvicorn raises the signal again once it has stopped, which would end the process before the flush.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    uvicorn.run(
        app,
        host=settings.echo_host,
        port=settings.echo_port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=2,
        # Else a request can run inside the span of the one before it on the same connection.
        reset_contextvars=True,
    )
    shutdown_telemetry()


if __name__ == "__main__":
    main()
