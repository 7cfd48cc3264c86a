"""Python runs this when a part of a stack under test starts; in echo it notes which readings echo has processed.

It writes a line for each reading answered with 200: its id, its device, its number, and "again" for a repetition. This
lets the tests count readings where they arrive.
"""

import json
import os
from pathlib import Path
from typing import Any


class Noting:
    """The ASGI middleware around echo."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._file = Path(os.environ["TAKEN_FILE"])

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers one request."""
        body = bytearray()

        async def listen() -> Any:
            message = await receive()
            body.extend(message.get("body", b""))
            return message

        async def say(message: Any) -> None:
            if message["type"] == "http.response.start" and body and message["status"] == 200:
                again = any(name == b"idempotent-replayed" for name, _ in message["headers"])
                self._note(json.loads(body), "again" if again else "first")
            await send(message)

        await self._app(scope, listen, say)

    def _note(self, readings: Any, which: str) -> None:
        taken = readings if isinstance(readings, list) else [readings]
        with self._file.open("a") as file:
            for reading in taken:
                file.write(f"{reading['message_id']} {reading['device_id']} {reading['sequence']} {which}\n")


if os.environ.get("OTEL_SERVICE_NAME") == "echo" and "TAKEN_FILE" in os.environ:
    from echo.app import app

    app.add_middleware(Noting)
