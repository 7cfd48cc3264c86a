"""Checks the broker's clients and the messages on the wire: protocol version, user properties, QoS, times."""

import json
import re
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import paho.mqtt.client as mqtt
from opentelemetry.instrumentation.paho_mqtt.propagation import has_trace_context, missing_context_reason
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.subscribeoptions import SubscribeOptions

from mqtt_delivery import received_properties
from service import BrokerSettings
from service.partitions import PARTITIONED_READINGS
from stack.doctor.result import Result, some
from stack.errors import StackError
from stack.runtime import Runtime
from stack.settings import Settings

# Mosquitto's own count, since it started.
CONNECT_SECONDS = 3.0
SHORTEST_LISTEN_SECONDS = 3.0
LONGEST_LISTEN_SECONDS = 8.0
LATELY = timedelta(minutes=5)
CLOCK_SECONDS = 5.0
# The numbers of protocol versions in Mosquitto's log.
PROTOCOLS = {"1": "3.1", "2": "3.1.1", "5": "5"}
CONNECTED = re.compile(r"(\S+): New client connected from \S+ as (.*) \(p(\d), c\d, k\d+(?:, u'(.*)')?\)\.$")
DROPPED = re.compile(r"\S+: Outgoing messages are being dropped for client (.*)\.$")
ENDED = re.compile(r"\S+: Client (.*?)(?: \[\S+\])? (?:disconnected|closed its connection|has exceeded timeout)\b.*")


@dataclass(frozen=True)
class Heard:
    """A reading as the broker delivered it."""

    topic: str
    qos: int
    user_properties: list[tuple[str, str]]
    # The payload, if it is a JSON object.
    payload: dict[str, Any]
    # Seconds since 1970.
    arrived: float

    @property
    def context(self) -> str:
        """The place of its trace context, ``properties`` or ``payload``; otherwise the reason why it has none."""
        if has_trace_context(self.user_properties):
            return "properties"
        reason = missing_context_reason(self.user_properties)
        in_payload = [(name, value) for name, value in self.payload.items() if isinstance(value, str)]
        return "payload" if reason in ("absent", "wrong_case") and has_trace_context(in_payload) else reason


def examine(runtime: Runtime, settings: Settings) -> Iterator[Result]:
    """Checks the broker's log and the readings of a few seconds."""
    heard: list[Heard] = []
    refusal = ""
    try:
        heard = listen(runtime, settings)
    except StackError as error:
        refusal = f"{error}."
    if settings.own_broker:
        log = runtime.log_text("mosquitto")
        yield protocol(log, in_payload=any(reading.context == "payload" for reading in heard))
        yield from dropped(log)
    else:
        yield Result("protocol", "not known: the broker (BROKER=external) and its log are yours.")
    if refusal:
        fix = "`make logs PART=mosquitto`; is MQTT_OPERATOR_* the same as at `make up`?"
        if not settings.own_broker:
            fix = f"the user in MQTT_OPERATOR_* must be one of your broker's, and may read {readings(settings)}."
        yield Result("user properties", refusal, fix)
    elif not heard:
        yield silence(settings)
    else:
        yield from user_properties(heard)
        yield qos(heard)
        yield timestamps(heard)


def new_client(runtime: Runtime, settings: Settings) -> mqtt.Client:
    """Makes a client that logs in as the operator; it connects to another broker in the same way as the consumer.

    Raises:
        ValueError: If this machine's user cannot read a file that the consumer uses.
    """
    username, password = settings.mqtt_operator_username, settings.mqtt_operator_password
    if not settings.own_broker:
        given = {name.lower(): value for name, value in runtime.environment("consumer").items() if value}
        names = given.keys() & BrokerSettings.model_fields.keys()
        reach = BrokerSettings.model_validate({name: given[name] for name in names})
        mqtt_5 = given.get("mqtt_consumer_protocol") != "3.1.1"
        return reach.new_client(f"doctor-{uuid4()}", username, password, mqtt_5=mqtt_5)
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.username_pw_set(username, password.get_secret_value())
    if settings.mqtt_tls:
        client.tls_set_context(ssl.create_default_context(cadata=runtime.authority()))
    return client


def readings(settings: Settings) -> str:
    """The filter of the topics with readings."""
    return PARTITIONED_READINGS if settings.partitions else "sensors/+/reading"


def listen_seconds(settings: Settings) -> float:
    """The seconds in which each sensor should send a reading, within limits."""
    return min(LONGEST_LISTEN_SECONDS, max(SHORTEST_LISTEN_SECONDS, settings.interval_seconds * 1.2))


def listen(runtime: Runtime, settings: Settings) -> list[Heard]:
    """The readings that the operator's user receives in the next seconds.

    Raises:
        StackError: If the broker refuses the operator.
    """
    heard: list[Heard] = []
    connected = threading.Event()
    refusals: list[str] = []

    def on_connect(client: mqtt.Client, userdata: None, flags: object, reason_code: Any, properties: object) -> None:
        if reason_code.is_failure:
            refusals.append(str(reason_code))
        # QoS 2 delivers each with the QoS of its publisher; retained messages are not current, so they are left out.
        if client.protocol == mqtt.MQTTv5:
            now = SubscribeOptions(qos=2, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
            client.subscribe(readings(settings), options=now)
        else:
            client.subscribe(readings(settings), qos=2)
        connected.set()

    def on_message(client: mqtt.Client, userdata: None, message: mqtt.MQTTMessage) -> None:
        heard.append(_heard(message))

    received_properties.use_for_paho()
    try:
        client = new_client(runtime, settings)
        client.connect_timeout = CONNECT_SECONDS
        client.on_connect = on_connect
        client.on_message = on_message
        client.connect(settings.mqtt_host, settings.mqtt_port)
    except (OSError, ValueError) as error:
        raise StackError(f"the broker at {settings.broker_address} does not answer: {error}") from None
    client.loop_start()
    try:
        if not connected.wait(CONNECT_SECONDS) or refusals:
            raise StackError(f"the broker refuses the operator: {', '.join(refusals) or 'no answer'}")
        time.sleep(listen_seconds(settings))
    finally:
        client.disconnect()
        client.loop_stop()
    return heard


def dropped(log: str) -> Iterator[Result]:
    """Finds clients for which the broker has dropped messages, according to its log."""
    clients = [match[1] for line in log.splitlines() if (match := DROPPED.match(line))]
    if clients:
        yield Result(
            "dropped",
            f"the broker has dropped messages for {some(clients)}: the queue was full.",
            "start the consumer, or end its session (`--leave`); max_queued_messages in mosquitto.conf and "
            "MQTT_MAX_QUEUED_BYTES bound a queue.",
        )


def _heard(message: mqtt.MQTTMessage) -> Heard:
    try:
        payload = json.loads(message.payload)
    except (ValueError, RecursionError):
        payload = None
    return Heard(
        topic=message.topic,
        qos=message.qos,
        user_properties=getattr(message.properties, "UserProperty", []),
        payload=payload if isinstance(payload, dict) else {},
        arrived=time.time(),
    )


def protocol(log: str, *, in_payload: bool) -> Result:
    """The protocol version of each client, from the broker's log.

    Args:
        log: The broker's log.
        in_payload: True if readings carry their context in the payload, which works with every version.
    """
    title = "protocol"
    clients = lately_connected(log, datetime.now(UTC))
    old = [client for client in clients if client.protocol != "5"]
    if not clients:
        return Result(title, "the broker's log names no client of the last minutes.")
    if old and not in_payload:
        names = some(f"{client.client_id} (user {client.user}, MQTT {client.protocol})" for client in old)
        return Result(
            title,
            f"not on MQTT 5: {names}. Before MQTT 5 there are no user properties, so no context leaves a publisher.",
            "connect with protocol=MQTTv5 (MQTT_PROTOCOL=5).",
        )
    users = ", ".join(sorted({client.user for client in clients}))
    if old:
        return Result(title, f"some clients of {users} are not on MQTT 5, but the context is in the payload.")
    return Result(title, f"all clients of {users} speak MQTT 5.")


@dataclass(frozen=True)
class Client:
    """A client in the broker's log."""

    client_id: str
    user: str
    protocol: str
    since: datetime


def lately_connected(log: str, now: datetime) -> list[Client]:
    """The clients that are connected now, or were in the last minutes."""
    clients: dict[str, Client] = {}
    ended: set[str] = set()
    for line in log.splitlines():
        if match := CONNECTED.match(line):
            time_, client_id, number, user = match.groups()
            client = Client(client_id, user or "", PROTOCOLS.get(number, f"({number})"), datetime.fromisoformat(time_))
            clients[client_id] = client
            ended.discard(client_id)
        elif match := ENDED.match(line):
            ended.add(match[1])
        elif line.endswith(" starting"):
            ended.update(clients)
    return [client for name, client in clients.items() if name not in ended or now - client.since < LATELY]


def silence(settings: Settings) -> Result:
    """Explains why no reading came."""
    seconds = listen_seconds(settings)
    says = f"no reading arrived within {seconds:.0f} s."
    if settings.interval_seconds > seconds:
        return Result("user properties", f"{says} INTERVAL_SECONDS is {settings.interval_seconds:g}.")
    return Result("user properties", says, "is the producer healthy (`make ps`)? `make logs PART=producer`.")


FIXES = {
    "absent": (
        "without a traceparent",
        "set UserProperty on a Properties(PacketTypes.PUBLISH) object for each publish, and connect with MQTT 5.",
    ),
    "invalid": (
        "with a traceparent that is not W3C Trace Context",
        "let the propagator's inject() write it: 00-<32 hex digits>-<16 hex digits>-<2 hex digits>.",
    ),
    "wrong_case": (
        "with another spelling of traceparent",
        "write the name in lower case: MQTT compares names exactly.",
    ),
    "duplicate": (
        "with more than one traceparent",
        "make new Properties for each publish: an assignment to UserProperty adds to what is there.",
    ),
}


def user_properties(readings: list[Heard]) -> Iterator[Result]:
    """Checks that each reading carries exactly one valid traceparent."""
    title = "user properties"
    contexts = [reading.context for reading in readings]
    for reason, (says, fix) in FIXES.items():
        if reason in contexts:
            topics = some(reading.topic for reading in readings if reading.context == reason)
            yield Result(title, f"{contexts.count(reason)} of {len(readings)} readings {says}: {topics}.", fix)
    if not FIXES.keys() & set(contexts):
        where = f" ({contexts.count('payload')} in the payload)" if "payload" in contexts else ""
        yield Result(title, f"each of {len(readings)} readings carries one valid traceparent{where}.")


def qos(readings: list[Heard]) -> Result:
    """Checks that the publishers wait for an acknowledgement."""
    at_most_once = [reading for reading in readings if reading.qos == 0]
    if not at_most_once:
        return Result("QoS", f"all of {len(readings)} readings were published with QoS 1 or 2.")
    return Result(
        "QoS",
        f"{len(at_most_once)} of {len(readings)} readings came with QoS 0, whose publish spans look instantaneous: "
        f"there is no PUBACK to wait for. {some(reading.topic for reading in at_most_once)}.",
        "publish with QoS 1.",
    )


def timestamps(readings: list[Heard]) -> Result:
    """Checks that the sensors' clocks agree with this machine's."""
    wrong = [(reading, behind) for reading in readings if abs(behind := _seconds_behind(reading)) > CLOCK_SECONDS]
    if not wrong:
        return Result("sensor clocks", f"no reading is more than {CLOCK_SECONDS:.0f} s away from this machine's time.")
    topics = some(reading.topic for reading, _ in wrong)
    farthest = max((behind for _, behind in wrong), key=abs)
    return Result(
        "sensor clocks",
        f"{len(wrong)} of {len(readings)} readings are up to {abs(farthest):.0f} s "
        f"{'behind' if farthest > 0 else 'ahead of'} this machine's time: {topics}.",
        "set the sensor's clock; a producer that was offline sends its old readings first; then just wait.",
    )


def _seconds_behind(reading: Heard) -> float:
    try:
        taken = datetime.fromisoformat(str(reading.payload["timestamp"]))
    except (KeyError, ValueError):
        return 0.0
    return reading.arrived - (taken if taken.tzinfo else taken.replace(tzinfo=UTC)).timestamp()
