"""Watches a connection: whether the network thread runs, whether the broker is heard, and why the connection ended."""

from __future__ import annotations

import logging
import socket
import threading
import time
from contextlib import suppress
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.properties import Properties

log = logging.getLogger(__name__)

# A broker drops a client that is silent for this many keep-alives (MQTT 5.0, 3.1.2.10); we do the same to it.
KEEPALIVES = 1.5
# When malformed packets end this many connections in a row, the broker sends the same packet again and again.
MALFORMED_AGAIN = 3
# After this time without a malformed packet, the count starts again.
MALFORMED_SECONDS = 30.0
# This many connections in a row that end within SHORT_SECONDS are no accident.
SHORT_AGAIN = 3
SHORT_SECONDS = 10.0
UNSPECIFIED = 0x80
# A client with the same id took the session over (MQTT 5.0, 3.14.2.1).
TAKEN_OVER = 0x8E
# At most this much of a broker's text goes into a log line.
MAXIMUM_REASON_CHARACTERS = 200


def reason(reason_code: Any, properties: Properties | None = None) -> str:
    """A reason code with its number and its reason string, if any (MQTT 5.0, 2.4 and 3.14.2.2.3)."""
    said = getattr(properties, "ReasonString", "")[:MAXIMUM_REASON_CHARACTERS]
    return f"{reason_code} (0x{reason_code.value:02X})" + (f": {said!r}" if said else "")


class Connection(logging.Logger):
    """Reads paho's log, the only place that shows every packet and what is malformed in one.

    paho's ``is_connected()`` stays True when its network thread has died, and until paho notices a lost connection.

    Args:
        client: This object becomes its logger.
    """

    def __init__(self, client: mqtt.Client) -> None:
        super().__init__(__name__)
        self._client = client
        self._thread: threading.Thread | None = None
        self._turned = self._heard = time.monotonic()
        self._established = False
        self._opened = 0.0
        self._short_in_a_row = 0
        self._malformed: str | None = None
        self._malformed_in_a_row = 0
        self._malformed_last = 0.0
        client.enable_logger(self)

    @property
    def live(self) -> bool:
        """The network thread is alive and, while connected, makes progress: it sends at least a PINGREQ."""
        if self._thread is not None and not self._thread.is_alive():
            return False
        return not self._client.is_connected() or self._lately(self._turned)

    @property
    def connected(self) -> bool:
        """Connected, and some packet, such as a PINGRESP, came within 1.5 keep-alives."""
        return self._client.is_connected() and self._lately(self._heard)

    @property
    def unreadable(self) -> bool:
        """Whether malformed packets end one connection after the other."""
        lately = time.monotonic() - self._malformed_last < MALFORMED_SECONDS
        return self._malformed_in_a_row >= MALFORMED_AGAIN and lately

    def log(self, level: int, msg: object, *args: object, **_: Any) -> None:
        """Reads a line of paho's log."""
        line = str(msg)
        if line.startswith("Received malformed packet"):
            self._malformed = str(args[0])
        elif line.startswith("Received "):
            self._turned = self._heard = time.monotonic()
            self._thread = threading.current_thread()
        elif line == "Sending PINGREQ":
            self._turned = time.monotonic()

    def opened(self, reason_code: Any, properties: Properties | None) -> bool:
        """Whether the broker accepts the connection; logs why not."""
        self._established, self._opened = not reason_code.is_failure, time.monotonic()
        if not self._established:
            log.error("the broker refuses the connection of client %r: %s", self._name, reason(reason_code, properties))
        return self._established

    def ended(self, flags: Any, reason_code: Any, properties: Properties | None) -> bool:
        """Logs why a connection has ended; True if a malformed packet ended it."""
        established, self._established = self._established, False
        if self._note_malformed():
            return True
        if reason_code.value == TAKEN_OVER:
            log.error("another client has the id %r too, and took over its connection: each needs its own", self._name)
        elif flags.is_disconnect_packet_from_server:
            log.error("the broker has ended the connection: %s", reason(reason_code, properties))
        elif established and reason_code.is_failure:
            # paho reports "unspecified" for every end that is not a time-out.
            why = "" if reason_code.value == UNSPECIFIED else f": {reason(reason_code)}"
            log.error("the connection to the broker is lost%s", why)
            self._note_short()
        return False

    @property
    def _name(self) -> str:
        return self._client._client_id.decode()  # pyright: ignore[reportPrivateUsage] (it has no public name)

    def cut(self) -> None:
        """Ends the connection so that paho reconnects and the broker sends unacknowledged messages again."""
        # This is no lost connection to log.
        self._established = False
        connection: Any = self._client.socket()
        with suppress(OSError, AttributeError):
            # For WebSockets it is an object of paho that wraps the real socket.
            getattr(connection, "_socket", connection).shutdown(socket.SHUT_RDWR)

    def _note_short(self) -> None:
        """Detects a session that another client takes over, because not every broker reports this."""
        short = time.monotonic() - self._opened < SHORT_SECONDS
        self._short_in_a_row = self._short_in_a_row + 1 if short else 0
        if self._short_in_a_row == SHORT_AGAIN:
            what = "%d connections in a row lasted less than %g s: has another client the id %r too? Each needs its own"
            log.error(what, SHORT_AGAIN, SHORT_SECONDS, self._name)

    def _note_malformed(self) -> bool:
        what, self._malformed = self._malformed, None
        now = time.monotonic()
        if what is None or now - self._malformed_last > MALFORMED_SECONDS:
            self._malformed_in_a_row = 0
        if what is None:
            return False
        self._malformed_in_a_row, self._malformed_last = self._malformed_in_a_row + 1, now
        if self._malformed_in_a_row in (1, MALFORMED_AGAIN):
            in_a_row = self._malformed_in_a_row
            again = f", {in_a_row} times in a row: nothing gets through" if in_a_row > 1 else ""
            log.error("disconnected: the broker sent a malformed packet%s: %s", again, what)
        return True

    def _lately(self, moment: float) -> bool:
        keepalive = self._client.keepalive
        return not keepalive or time.monotonic() - moment < KEEPALIVES * keepalive
