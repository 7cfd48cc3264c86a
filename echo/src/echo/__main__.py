"""Serves echo, traced by the FastAPI instrumentation."""

from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

from echo.app import app
from echo.settings import Settings
from service import load_settings
from service.server import serve
from telemetry import setup_telemetry, shutdown_telemetry


def main() -> None:
    """Serves until SIGTERM, then answers the requests in progress and flushes the telemetry."""
    settings = load_settings(Settings)
    setup_telemetry("echo")
    # One span for each request is enough; ASGI events need none.
    FastAPIInstrumentor.instrument_app(app, exclude_spans=["receive", "send"])
    # Health checks come every few seconds, and would fill an access log.
    serve(app, settings.echo_host, settings.echo_port, settings.echo_allowed_hosts, access_log=False)
    shutdown_telemetry()


if __name__ == "__main__":
    main()
