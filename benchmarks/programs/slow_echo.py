"""Echo that answers after ``SECONDS``, as a service does that waits for a database."""

import asyncio
import os

import uvicorn
from starlette.types import Receive, Scope, Send

from echo.app import app
from echo.settings import Settings

SECONDS = float(os.environ["SECONDS"])


async def slow_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Waits, then answers."""
    if scope["type"] == "http" and scope["method"] == "POST":
        await asyncio.sleep(SECONDS)
    await app(scope, receive, send)


if __name__ == "__main__":
    settings = Settings()
    uvicorn.run(slow_app, host=settings.echo_host, port=settings.echo_port, log_config=None, access_log=False)
