"""Counts what becomes of the readings that a test sends, at the places where they arrive."""

import http.server
import json
import re
import socketserver
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties

from harness import Stack, eventually, reading
from mqtt_delivery import received_properties
from stack.settings import Settings

# The tests' own clients must also receive messages that would stop paho's reader.
received_properties.use_for_paho()

# In the consumer's log, for tests that need to know which of several consumers processed a reading.
PROCESSED = re.compile(r"processed reading (\S+) on ")
RECEIVING = Path(__file__).parent / "receiving"


# A producer that stays silent.
QUIET = {"DEVICES": "1", "INTERVAL_SECONDS": "86400"}


class NotingStack(Stack):
    """A stack whose echo notes which readings it has processed."""

    # Passes the variables that this needs on to the parts.
    program = (
        "-c",
        "from stack import environment; environment.SYSTEM_VARIABLES |= {'PYTHONPATH', 'TAKEN_FILE'}; "
        "from stack.__main__ import main; from stack.console import exit_code; raise SystemExit(exit_code(main))",
    )

    def __init__(self, folder: Path, **values: str) -> None:
        super().__init__(folder, **values)
        self.taken = folder / "taken"
        self.taken.touch()
        self.environment |= {"PYTHONPATH": str(RECEIVING), "TAKEN_FILE": str(self.taken)}


NewStack = Callable[..., NotingStack]


class Taken(Protocol):
    """The place of echo's notes."""

    def read_text(self) -> str: ...


class Noted(Protocol):
    """What a test needs from a stack to send readings to it and see what becomes of them."""

    @property
    def settings(self) -> Settings: ...

    @property
    def taken(self) -> Taken: ...


class Ledger:
    """What became of the readings that a test sent: those that echo processed, and the broker's dead letters."""

    def __init__(self, stack: Noted) -> None:
        self.stack = stack
        self.sent: list[str] = []
        self._dead: list[str] = []
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        password = stack.settings.mqtt_operator_password.get_secret_value()
        self._client.username_pw_set(stack.settings.mqtt_operator_username, password)
        self._client.reconnect_delay_set(max_delay=1)
        subscribed = threading.Event()
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.on_message = lambda _client, _userdata, message: self._dead.append(identifier(message.payload))
        self._client.connect("127.0.0.1", stack.settings.mqtt_port)
        self._client.loop_start()
        assert subscribed.wait(10)

    def _on_connect(self, client: mqtt.Client, *_: object) -> None:
        client.subscribe("dead-letter/#", qos=1)

    def taken(self, which: str = "first") -> list[list[str]]:
        """Id, device and number of each reading that echo processed for the first time, or received again."""
        lines = [line.split() for line in self.stack.taken.read_text().splitlines()]
        return [taken for *taken, kind in lines if kind == which]

    def processed(self) -> Counter[str]:
        return Counter(taken[0] for taken in self.taken())

    def dead_lettered(self) -> Counter[str]:
        return Counter(self._dead)

    def lost(self) -> set[str]:
        return set(self.sent) - self.processed().keys() - self.dead_lettered().keys()

    def twice(self) -> int:
        processed = self.processed()
        return sum(processed[identifier] > 1 for identifier in self.sent)

    def settle(self, seconds: float = 60.0) -> None:
        """Waits until no reading is missing, and prints the counts."""
        eventually(lambda: not self.lost(), seconds)
        processed, dead = self.processed(), self.dead_lettered()
        print(
            f"sent {len(self.sent)}, taken {sum(i in processed for i in self.sent)}, twice {self.twice()}, "
            f"dead-lettered {sum(i in dead for i in self.sent)}, lost {len(self.lost())}"
        )

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def identifier(payload: bytes | bytearray) -> str:
    """The id of a reading, if the payload is one."""
    try:
        return str(json.loads(payload)["message_id"])
    except (LookupError, RecursionError, TypeError, ValueError):
        return ""


class Publisher:
    """Publishes readings as the operator's user, each acknowledged by the broker before it counts as sent."""

    def __init__(self, stack: Noted) -> None:
        self.ledger = Ledger(stack)
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        password = stack.settings.mqtt_operator_password.get_secret_value()
        self._client.username_pw_set(stack.settings.mqtt_operator_username, password)
        self._client.connect("127.0.0.1", stack.settings.mqtt_port)
        self._client.loop_start()

    def send(self, count: int, devices: int = 10) -> None:
        infos = []
        for number in range(count):
            sent = reading(device_id=f"sensor-{number % devices:03}", sequence=number)
            self.ledger.sent.append(str(sent["message_id"]))
            infos.append(self._client.publish(f"sensors/{sent['device_id']}/reading", json.dumps(sent), qos=1))
        for info in infos:
            info.wait_for_publish(30)
            assert info.is_published()

    def send_now(self, device: str) -> None:
        """Publishes a reading measured now, without waiting for the broker."""
        taken = reading(device_id=device, timestamp=datetime.now(UTC).isoformat())
        self._client.publish(f"sensors/{device}/reading", json.dumps(taken), qos=1)

    def send_raw(self, topic: str, payload: bytes, properties: Properties | None = None, *, wait: bool = True) -> None:
        info = self._client.publish(topic, payload, qos=1, properties=properties)
        if not wait:
            return
        info.wait_for_publish(30)
        assert info.is_published()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        self.ledger.close()


@contextmanager
def dead_letters(stack: Stack) -> Iterator[list[mqtt.MQTTMessage]]:
    """Collects what the broker delivers on the dead-letter topics during the block."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    password = stack.settings.mqtt_operator_password.get_secret_value()
    client.username_pw_set(stack.settings.mqtt_operator_username, password)
    found: list[mqtt.MQTTMessage] = []
    subscribed = threading.Event()
    client.on_message = lambda _client, _userdata, message: found.append(message)
    client.on_subscribe = lambda *_: subscribed.set()
    client.connect("127.0.0.1", stack.settings.mqtt_port)
    client.subscribe("dead-letter/#", qos=1)
    client.loop_start()
    assert subscribed.wait(10)
    yield found
    client.disconnect()
    client.loop_stop()


def user_properties(message: mqtt.MQTTMessage) -> list[tuple[str, str]]:
    return getattr(message.properties, "UserProperty", [])


@contextmanager
def serving(port: int, handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[None]:
    """Runs an HTTP server in this process during the block."""
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    socketserver.ThreadingTCPServer.daemon_threads = True  # a kept-alive connection must not keep the test running
    with socketserver.ThreadingTCPServer(("127.0.0.1", port), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


def states(stack: Stack) -> list[tuple[str, str]]:
    return [(name, state) for name, state, _ in stack.runtime.states()]


def producers_sent(stack: Stack) -> int:
    return sum(map(int, re.findall(r"stopping after (\d+) readings", stack.runtime.log_text("producer"))))
