"""Buffers of a publisher for messages that the broker has not acknowledged: in memory, or on disk."""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from opentelemetry.context import Context, get_current
from opentelemetry.propagate import extract, inject
from opentelemetry.trace import SpanKind, get_tracer
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from mqtt_delivery.version import __version__

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """A message that the broker has not acknowledged.

    Attributes:
        number: Its place in the order.
        topic: Its topic.
        payload: Its payload.
        properties: Its MQTT 5 properties, without a trace context.
        context: The OpenTelemetry context in which it is published.
        since: When it was made, in seconds since 1970.
    """

    number: int
    topic: str
    payload: bytes
    properties: Properties | None
    context: Context
    since: float


class Buffer(Protocol):
    """Keeps messages in order until they are done. The caller holds one lock."""

    def __len__(self) -> int:
        """The number of messages that are not done, including those taken out."""
        ...

    @property
    def oldest(self) -> float | None:
        """When the oldest message that is not taken out was made, in seconds since 1970."""
        ...

    def put(self, topic: str, payload: bytes, properties: Properties | None) -> None:
        """Stores a message with the current context.

        Raises:
            sqlite3.Error: It cannot be written to disk.
        """
        ...

    def take(self) -> Kept | None:
        """Takes out the first waiting message; None if there is none."""
        ...

    def put_back(self, kept: Kept) -> None:
        """Puts a message back in its place, to be sent again."""
        ...

    def done(self, kept: Kept) -> None:
        """Forgets a message."""
        ...

    def close(self) -> None:
        """Closes the buffer."""
        ...


class _InOrder:
    """Messages that can be taken out and put back, in the order of their numbers."""

    def __init__(self) -> None:
        self.waiting: deque[Kept] = deque()

    def take(self) -> Kept | None:
        return self.waiting.popleft() if self.waiting else None

    def put_back(self, kept: Kept) -> None:
        # Near the front: only others that were put back are before it.
        place = next((i for i, other in enumerate(self.waiting) if other.number > kept.number), len(self.waiting))
        self.waiting.insert(place, kept)


class MemoryBuffer(_InOrder):
    """Keeps messages until the program ends."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0
        self._last = 0

    def __len__(self) -> int:
        return self._count

    @property
    def oldest(self) -> float | None:
        """See ``Buffer``."""
        return self.waiting[0].since if self.waiting else None

    def put(self, topic: str, payload: bytes, properties: Properties | None) -> None:
        """See ``Buffer``."""
        self._count += 1
        self._last += 1
        self.waiting.append(Kept(self._last, topic, payload, properties, get_current(), time.time()))

    def done(self, kept: Kept) -> None:
        """See ``Buffer``."""
        self._count -= 1

    def close(self) -> None:
        """See ``Buffer``."""


SCHEMA = """
CREATE TABLE IF NOT EXISTS message (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    topic TEXT NOT NULL,
    payload BLOB NOT NULL,
    properties BLOB,
    context TEXT NOT NULL,
    since REAL NOT NULL
)
"""
# The number of rows to read ahead.
READ_AHEAD = 100


class DiskBuffer(_InOrder):
    """Keeps messages in an SQLite database in WAL mode. They survive ``kill -9``; a power cut may lose the last ones.

    Each message has a span ``buffer {topic}``, so that it has a trace before it is sent.

    Args:
        file: The database. A missing one is created, a damaged one is set aside. Only one process may use it.

    Raises:
        sqlite3.Error: It cannot be opened, or another process uses it.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._tracer = get_tracer("mqtt_delivery", __version__)
        try:
            self._database = _open(file)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            damaged = file.with_name(f"{file.name}.damaged-{int(time.time())}")
            log.error("%s is damaged, and is now %s: %s", file, damaged, error)
            file.rename(damaged)
            for rest in ("-wal", "-shm"):
                file.with_name(file.name + rest).unlink(missing_ok=True)
            self._database = _open(file)
        self._count: int = self._database.execute("SELECT count(*) FROM message").fetchone()[0]
        self._read = 0

    def __len__(self) -> int:
        return self._count

    @property
    def oldest(self) -> float | None:
        """See ``Buffer``."""
        self._read_ahead()
        return self.waiting[0].since if self.waiting else None

    def put(self, topic: str, payload: bytes, properties: Properties | None) -> None:
        """See ``Buffer``."""
        attributes = {"messaging.system": "mqtt", "messaging.destination.name": topic}
        with self._tracer.start_as_current_span(f"buffer {topic}", kind=SpanKind.INTERNAL, attributes=attributes):
            carrier: dict[str, str] = {}
            inject(carrier)
            packed = bytes(properties.pack()) if properties is not None else None  # pyright: ignore[reportUnknownArgumentType] (paho has no types here)
            self._database.execute(
                "INSERT INTO message (topic, payload, properties, context, since) VALUES (?, ?, ?, ?, ?)",
                (topic, payload, packed, json.dumps(carrier), time.time()),
            )
        self._count += 1

    def take(self) -> Kept | None:
        """See ``Buffer``."""
        self._read_ahead()
        return super().take()

    def done(self, kept: Kept) -> None:
        """See ``Buffer``."""
        self._count -= 1
        self._database.execute("DELETE FROM message WHERE number = ?", (kept.number,))

    def close(self) -> None:
        """See ``Buffer``."""
        self._database.close()

    def _read_ahead(self) -> None:
        if self.waiting or self._read_all():
            return
        rows = self._database.execute(
            "SELECT number, topic, payload, properties, context, since FROM message WHERE number > ?"
            " ORDER BY number LIMIT ?",
            (self._read, READ_AHEAD),
        )
        for number, topic, payload, packed, carrier, since in rows.fetchall():
            properties = None
            if packed is not None:
                properties = Properties(PacketTypes.PUBLISH)
                properties.unpack(packed)  # pyright: ignore[reportUnknownMemberType] (as above)
            context = extract(json.loads(carrier), Context())
            self.waiting.append(Kept(number, topic, payload, properties, context, since))
            self._read = number

    def _read_all(self) -> bool:
        """Whether the disk can hold no waiting message, so that it need not be read."""
        return not self._count


def _open(file: Path) -> sqlite3.Connection:
    database = sqlite3.connect(file, isolation_level=None, check_same_thread=False, timeout=1.0)
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    database.execute("PRAGMA journal_mode = WAL")
    # The last writes are in the operating system's cache, which outlives this process.
    database.execute("PRAGMA synchronous = NORMAL")
    database.execute(SCHEMA)
    return database
