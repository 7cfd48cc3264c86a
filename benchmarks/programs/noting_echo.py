"""Echo that prints which reading arrived when, in nanoseconds since 1970."""

import sys
import time

import uvicorn
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from starlette.types import Receive, Scope, Send

from echo.app import app
from echo.settings import Settings
from telemetry import setup_telemetry


async def noting_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Notes the time, then answers."""
    if scope["type"] == "http" and (identifier := dict(scope["headers"]).get(b"idempotency-key")):
        sys.stdout.write(f"{identifier.decode()} {time.time_ns()}\n")
        sys.stdout.flush()
    await app(scope, receive, send)


if __name__ == "__main__":
    settings = Settings()
    setup_telemetry("echo")
    FastAPIInstrumentor.instrument_app(app, exclude_spans=["receive", "send"])
    uvicorn.run(noting_app, host=settings.echo_host, port=settings.echo_port, log_config=None, access_log=False)
