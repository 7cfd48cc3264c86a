"""The telemetry contract: what the trace of one reading must look like, hop by hop."""

from collections.abc import Mapping
from dataclasses import dataclass

from stack.services import new_services
from stack.trace import Span, Value, children, roots

_MESSAGE_ATTRIBUTES: Mapping[str, type] = {
    "messaging.client.id": str,
    "messaging.message.body.size": int,
    "server.address": str,
    "server.port": int,
    "messaging.mqtt.qos": int,
}


@dataclass(frozen=True)
class Hop:
    """A span that must exist, below the span of the previous hop."""

    title: str
    name: str
    kind: str
    service: str
    # The value of each attribute, or its type if the value differs from reading to reading.
    attributes: Mapping[str, Value | type]
    hint: str


def hops(topic: str, message_id: str) -> list[Hop]:
    """The four spans of one reading, from the sensor to echo."""

    def messaging(operation: str) -> dict[str, Value | type]:
        return {
            "messaging.system": "mqtt",
            "messaging.destination.name": topic,
            "messaging.operation.type": operation,
            "messaging.operation.name": operation,
            "messaging.message.id": message_id,
            **_MESSAGE_ATTRIBUTES,
        }

    return [
        Hop(
            "producer → Mosquitto",
            f"publish {topic}",
            "Producer",
            "producer",
            messaging("publish"),
            "Is the producer healthy (make ps), and does it reach the Collector (make logs PART=producer)?",
        ),
        Hop(
            "Mosquitto → consumer",
            f"process {topic}",
            "Consumer",
            "consumer",
            messaging("process"),
            "Is the consumer subscribed (make logs PART=consumer), and may its user read the topic (mosquitto/acl)?",
        ),
        Hop(
            "consumer → HTTP",
            "POST",
            "Client",
            "consumer",
            {"http.request.method": "POST", "http.response.status_code": 200, "url.full": str},
            "Does the consumer call echo inside the process span? Look at make logs PART=consumer.",
        ),
        Hop(
            "HTTP → echo",
            "POST /echo",
            "Server",
            "echo",
            {
                "http.request.method": "POST",
                "http.route": "/echo",
                "http.response.status_code": 200,
                "url.path": str,
            },
            "Is echo healthy (make ps), and does ECHO_URL point to it? Look at make logs PART=echo.",
        ),
    ]


# Integer attributes, for backends in which all attributes are strings.
INTEGERS = frozenset(
    name for hop in hops("", "") for name, value in hop.attributes.items() if value is int or isinstance(value, int)
)


@dataclass(eq=False)
class BrokenHopError(Exception):
    """The first deviation from the contract: the hop at which a reading got stuck."""

    hop: str
    problem: str
    hint: str


def first_break(spans: list[Span], topic: str, message_id: str) -> BrokenHopError | None:
    """Compares a trace with the contract.

    Args:
        spans: All spans of the trace in the backend.
        topic: The topic of the reading.
        message_id: The reading's ``message_id``.

    Returns:
        The first hop that is broken, or None if the trace is whole.
    """
    spans = without_new_services(spans)
    candidates = roots(spans)
    failed: BrokenHopError | None = None
    for hop in hops(topic, message_id):
        span = next((span for span in candidates if (span.name, span.kind) == (hop.name, hop.kind)), None)
        if span is None:
            # Failed requests below a process span that is still open, and so not in the backend yet.
            attempts = [span for span in roots(spans) if span.kind == "Client" and span.status == "Error"]
            if attempts:
                http = hops(topic, message_id)[2]
                problem = f"the consumer is still trying, {attempts[-1].name} failed {len(attempts)} times so far: "
                return BrokenHopError(http.title, problem + (attempts[-1].status_message or "no answer"), http.hint)
            there = ", ".join(f"{span.name} ({span.kind})" for span in candidates) or "nothing"
            return BrokenHopError(hop.title, f"expected the span {hop.name} ({hop.kind}) here, found {there}", hop.hint)
        error = f"its status is an error: {span.status_message or span.attributes.get('error.type')}"
        if problems := _problems(span, hop) + ([error] if span.status == "Error" else []):
            found = BrokenHopError(hop.title, f"the span {hop.name} is there, but {'; '.join(problems)}", hop.hint)
            if problems != [error]:
                return found
            # An error spreads upwards, so the lowest span with an error names the hop.
            failed = found
        candidates = children(spans, span)
    if failed:
        return failed
    expected = len(hops(topic, message_id))
    if len(spans) != expected:
        extra = ", ".join(sorted(span.name for span in spans))
        return BrokenHopError(
            "the whole trace", f"expected {expected} spans and no more, found {len(spans)}: {extra}", ""
        )
    return None


def without_new_services(spans: list[Span]) -> list[Span]:
    """A trace without the spans of services that ``make new-service`` made, and without everything below them."""
    names = {service.name for service in new_services()}
    added = [span for span in spans if span.service in names]
    for span in added:
        added.extend(child for child in children(spans, span) if child not in added)
    return [span for span in spans if span not in added]


def is_whole_batch(spans: list[Span], publish: Span) -> bool:
    """Tells whether a trace is a batch's: one span with a link to the publish span, and an answered request below."""
    process = next(iter(roots(spans)), None)
    if process is None or process.kind != "Consumer" or (publish.trace_id, publish.span_id) not in process.links:
        return False
    request = [span for span in children(spans, process) if span.kind == "Client"]
    answer = [span for client in request for span in children(spans, client) if span.kind == "Server"]
    return any(span.attributes.get("http.response.status_code") == 200 for span in answer)


def _problems(span: Span, hop: Hop) -> list[str]:
    problems = []
    if span.service != hop.service:
        problems.append(f"its service.name is {span.service!r}, not {hop.service!r}")
    for name, expected in hop.attributes.items():
        value = span.attributes.get(name)
        if isinstance(expected, type):
            if not isinstance(value, expected):
                problems.append(f"{name} is {value!r}, not a value of type {expected.__name__}")
        elif value != expected:
            problems.append(f"{name} is {value!r}, not {expected!r}")
    return problems
