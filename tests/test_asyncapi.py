"""The messages on MQTT match ``asyncapi.yaml``, and the other way round."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import jsonschema_rs
import paho.mqtt.client as mqtt
import pytest
import yaml
from paho.mqtt.enums import CallbackAPIVersion

from echo.app import Reading
from harness import Stack, eventually
from mqtt_delivery import Consumer
from service import BrokerSettings
from stack.settings import ROOT

TEXT = (ROOT / "asyncapi.yaml").read_text()
# In the document, but not published in this run.
NOT_HERE = {
    ("reading", "header tracestate"): "no vendor adds one here",
    ("deadLetter", "header tracestate"): "no vendor adds one here",
    ("deadLetter", "header baggage"): "the reading that was refused had none",
    ("deadLetter", "header dead-letter-topic"): "no topic is so long",
}


@dataclass(frozen=True)
class Received:
    """A message as the broker delivered it."""

    topic: str
    payload: bytes
    user_properties: list[tuple[str, str]]
    qos: int
    retain: bool


@dataclass(frozen=True)
class Kind:
    """A message of the document, with its topic, QoS and retain flag."""

    name: str
    address: re.Pattern[str]
    headers: list[dict[str, Any]]
    payload: dict[str, Any] | None
    qos: set[int]

    def properties(self) -> set[str]:
        """The names of all that it may have."""
        headers = {f"header {name}" for schema in self.headers for name in schema["properties"]}
        return headers | {f"payload {name}" for name in (self.payload or {}).get("properties", {})}


class Document:
    """An AsyncAPI 3 document, with its references resolved."""

    def __init__(self, text: str) -> None:
        self._raw = yaml.safe_load(text)
        self.kinds = [
            self._kind(channel, name, message)
            for channel in self._raw["channels"]
            for name, message in self._raw["channels"][channel]["messages"].items()
        ]

    def _resolved(self, value: Any) -> Any:
        if isinstance(value, dict):
            if reference := value.get("$ref"):
                target = self._raw
                for key in reference.removeprefix("#/").split("/"):
                    target = target[key]
                return self._resolved(target)
            return {key: self._resolved(item) for key, item in value.items()}
        return [self._resolved(item) for item in value] if isinstance(value, list) else value

    def _kind(self, channel: str, name: str, message: Any) -> Kind:
        message = self._resolved(message)
        address = self._raw["channels"][channel]["address"]
        operations = [
            self._resolved(operation)
            for operation in self._raw["operations"].values()
            if operation["channel"]["$ref"] == f"#/channels/{channel}"
        ]
        return Kind(
            name,
            re.compile(re.sub(r"{\w+}", "[^/]+", address)),
            [part["headers"] for part in (*message.get("traits", []), message) if "headers" in part],
            message.get("payload"),
            {operation["bindings"]["mqtt"]["qos"] for operation in operations},
        )

    def kind_of(self, topic: str) -> Kind | None:
        """The message that travels on a topic."""
        return next((kind for kind in self.kinds if kind.address.fullmatch(topic)), None)

    def problems(self, message: Received) -> Iterator[str]:
        """Yields each way in which a message differs from the document."""
        kind = self.kind_of(message.topic)
        if kind is None:
            yield f"nothing is said of the topic {message.topic}"
            return
        headers = dict(message.user_properties)
        if len(headers) < len(message.user_properties):
            yield "a header is there twice"
        schemas = [(schema, headers) for schema in kind.headers]
        if kind.payload is not None:
            schemas.append((kind.payload, json.loads(message.payload)))
        for schema, value in schemas:
            for error in jsonschema_rs.Draft7Validator(schema, validate_formats=True).iter_errors(value):
                yield f"{message.topic}: {error.message}"
        yield from (f"nothing is said of {name}" for name in names_in(kind, message) - kind.properties())
        if kind.qos != {message.qos} or message.retain:
            yield f"QoS {message.qos}, retain {message.retain}"


def names_in(kind: Kind, message: Received) -> set[str]:
    headers = {f"header {name}" for name, _ in message.user_properties}
    payload = json.loads(message.payload) if kind.payload is not None else {}
    return headers | {f"payload {name}" for name in payload}


DOCUMENT = Document(TEXT)


@pytest.fixture(scope="module")
def messages(stack: Stack) -> list[Received]:
    """What the broker delivers while the producer publishes and another client sends an invalid reading."""
    received: list[Received] = []

    def keep(_client: mqtt.Client, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        user_properties = list(getattr(message.properties, "UserProperty", []))
        received.append(Received(message.topic, bytes(message.payload), user_properties, message.qos, message.retain))

    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    settings = stack.settings
    client.username_pw_set(settings.mqtt_operator_username, settings.mqtt_operator_password.get_secret_value())
    subscribed: list[Any] = []
    client.on_subscribe = lambda *_: subscribed.append(True)
    client.on_message = keep
    client.connect("127.0.0.1", settings.mqtt_port)
    # Leaves out the invalid reading.
    client.subscribe([(f"sensors/{name}/reading", 2) for name in ("sensor-001", "sensor-002", "sensor-003")])
    client.subscribe([("dead-letter/#", 2), ("heartbeat/#", 2)])
    client.loop_start()
    eventually(lambda: len(subscribed) == 2)
    # The stack's consumer has enough readings already.
    user, password = f"{settings.mqtt_consumer_username}-2", settings.mqtt_consumer_password
    idle = BrokerSettings(mqtt_port=settings.mqtt_port).new_client("consumer-2", user, password)
    consumer = Consumer(idle, "sensors/idle/reading", lambda message: None).connect("127.0.0.1", settings.mqtt_port)
    traceparent = f"00-{uuid4().hex}-{uuid4().hex[:16]}-01"
    options = ["-V", "mqttv5", "-D", "publish", "user-property", "traceparent", traceparent]
    stack.publish_with_mosquitto_pub("sensors/broken/reading", "no JSON", *options)
    eventually(lambda: consumer.healthy and len({message.topic for message in received}) == 5)
    consumer.stop()
    client.disconnect()
    client.loop_stop()
    return received


def test_every_message_is_as_the_document_says(messages: list[Received]) -> None:
    assert [problem for message in messages for problem in DOCUMENT.problems(message)] == []


def test_all_that_is_in_the_document_was_seen(messages: list[Received]) -> None:
    said = {(kind.name, name) for kind in DOCUMENT.kinds for name in kind.properties()}
    seen: set[tuple[str, str]] = set()
    for message in messages:
        kind = DOCUMENT.kind_of(message.topic)
        assert kind is not None
        seen |= {(kind.name, name) for name in names_in(kind, message)}
    assert said - seen == NOT_HERE.keys()


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("address: sensors/", "address: sensor/", "nothing is said of the topic"),
        ("humidity_pct:", "humidity:", "nothing is said of payload humidity_pct"),
        ("          baggage:", "          luggage:", "nothing is said of header baggage"),
        ("{2}-[0-9a-f]{32}-", "{2}-[0-9a-f]{31}-", "does not match"),
        ("type: integer", "type: string", "is not of type"),
        ("format: uuid", "format: ipv4", 'is not a "ipv4"'),
        ("qos: 1", "qos: 2", "QoS 1"),
        ("required: [dead-letter-reason]", "required: [dead-letter-cause]", "is a required property"),
    ],
)
def test_a_mistake_in_the_document_is_found(messages: list[Received], old: str, new: str, problem: str) -> None:
    assert old in TEXT
    wrong = Document(TEXT.replace(old, new))
    assert problem in "\n".join(found for message in messages for found in wrong.problems(message))


def test_the_payload_is_what_echo_takes() -> None:
    def bare(schema: dict[str, Any]) -> dict[str, Any]:
        words = ("title", "description", "examples", "$defs")
        return {
            key: bare(value) if isinstance(value, dict) else value for key, value in schema.items() if key not in words
        }

    (kind,) = (kind for kind in DOCUMENT.kinds if kind.name == "reading")
    assert kind.payload is not None
    ours, theirs = bare(kind.payload), bare(Reading.model_json_schema())
    assert ours == theirs


def test_the_topics_are_those_that_the_broker_lets_through() -> None:
    # The rights of the operator come after those of the services.
    acl = (ROOT / "mosquitto" / "acl").read_text().partition("user @MQTT_OPERATOR_USERNAME@")[0]
    written = re.findall(r"^topic (?:read)?write (\S+)$", re.sub("%[uc]", "+", acl), re.M)
    # The partitions are in a description: they are no channel of their own.
    written = [topic.replace("sensors/+/+/", "sensors/+/") for topic in written]
    addresses = [channel["address"] for channel in yaml.safe_load(TEXT)["channels"].values()]
    assert sorted(re.sub(r"{\w+}", "+", address) for address in addresses) == sorted(set(written))


@pytest.mark.stack
def test_asyncapis_own_parser_takes_it() -> None:
    if shutil.which("npm") is None:
        pytest.skip("AsyncAPI's parser needs npm, which is not installed here")
    folder = ROOT / "interop" / "asyncapi"
    install = ["npm", "--prefix", str(folder), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    subprocess.run(install, check=True, capture_output=True, timeout=240)
    check = ["node", str(folder / "validate.mjs"), "asyncapi.yaml"]
    done = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "asyncapi.yaml is valid: 3 channels, 4 operations\n"), done.stdout
