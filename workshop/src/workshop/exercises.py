"""The questions of each exercise, and the checks that look for the answers in the backend."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from stack.runtime import Runtime
from stack.settings import ROOT
from stack.trace import Span, children
from stack.viewer import Viewer

WORKSHOP = ROOT / "workshop"
# The participant's files.
MINE = WORKSHOP / "mine"
READING = ["Client", "Consumer", "Producer", "Server"]
TOPIC = "sensors/workshop-001/reading"
PUBLISH = ".venv/bin/python workshop/publisher.py"
# If a reading waited this long at the broker, no consumer was running.
WAITED_NANOSECONDS = 10**9
RECENT_READINGS = 20
READINGS_IN_A_BATCH = 5
# The CONNACK property for each answer.
CONNACK_ANSWERS = {
    "RECEIVE_MAXIMUM": "ReceiveMaximum",
    "SESSION_SECONDS": "SessionExpiryInterval",
    "SHARED": "SharedSubscriptionAvailable",
    "RETAINED": "RetainAvailable",
}
# The meaning of an absent property, for the visitor, which asks for a session of an hour.
CONNACK_DEFAULTS = {
    "ReceiveMaximum": 65535,
    "SessionExpiryInterval": 3600,
    "SharedSubscriptionAvailable": 1,
    "RetainAvailable": 1,
}
TRACE_ID = re.compile("[0-9a-f]{32}")
PROCESSED = re.compile(r"processed reading (\S+) on ")


@dataclass(frozen=True)
class Evidence:
    """The evidence for a check."""

    runtime: Runtime
    viewer: Viewer
    # The path of the file with the answers, from the repository's root, and the answers in it.
    answers_file: str
    answers: Mapping[str, str]

    def trace(self, name: str) -> list[Span]:
        """The trace whose id is the answer of this name; empty if there is no answer or no such trace."""
        trace_id = self.answers.get(name, "")
        return self.viewer.trace(trace_id) if TRACE_ID.fullmatch(trace_id) else []

    def traces(self, name: str, value: str) -> list[list[Span]]:
        """The traces with a span that has this attribute, the newest first."""
        return [self.viewer.trace(found) for found in self.viewer.trace_ids(0, time.time_ns(), (name, value))]

    def own_runs(self, service: str, program: str) -> Iterator[tuple[Span, list[Span]]]:
        """The spans of a service since its program was last changed, each with its trace, the newest first.

        Args:
            service: Its ``service.name``.
            program: The file of the program in ``workshop/mine``.
        """
        changed = (MINE / program).stat().st_mtime_ns
        for trace_id in self.viewer.trace_ids_of(service, changed, time.time_ns()):
            spans = self.viewer.trace(trace_id)
            yield from ((span, spans) for span in spans if span.service == service and span.start > changed)

    def processed(self) -> list[str]:
        """The ids of the readings that the consumer has processed, in the order of its log."""
        return PROCESSED.findall(self.runtime.log_text("consumer"))

    def is_whole(self, message_id: str) -> bool:
        """Tells whether the backend has the whole trace of a reading."""
        return any(kinds(spans) == READING for spans in self.traces("messaging.message.id", message_id))


@dataclass(frozen=True)
class Exercise:
    """One exercise."""

    # The questions, by the name of their answers.
    questions: Mapping[str, str]
    # Yields what is missing in the backend, or wrong with the given answers.
    check: Callable[[Evidence], Iterator[str]]


def still_missing(exercise: Exercise, evidence: Evidence) -> Iterator[str]:
    """A line for each thing that is missing."""
    yield from exercise.check(evidence)
    for name, question in exercise.questions.items():
        if name not in evidence.answers:
            yield f"{evidence.answers_file} has no {name}=: {question}"
        elif name.endswith("_TRACE") and not evidence.trace(name):
            yield f"{name} is {evidence.answers[name]}, and the backend holds no such trace; `make down` empties it"


def kinds(spans: list[Span]) -> list[str]:
    """The kinds of the spans of a trace, in alphabetical order."""
    return sorted(span.kind for span in spans)


def of_kind(spans: list[Span], kind: str) -> Span | None:
    """The first span of a kind."""
    return next((span for span in spans if span.kind == kind), None)


def read_one_trace(evidence: Evidence) -> Iterator[str]:
    """Checks two facts that only the trace shows."""
    spans = evidence.trace("READING_TRACE")
    if spans and kinds(spans) != READING:
        yield "READING_TRACE is not the trace of one reading with four spans; take the one that `make verify` prints"
        return
    publish, process, server = (of_kind(spans, kind) for kind in ("Producer", "Consumer", "Server"))
    answer = evidence.answers.get("BROKER_MS")
    if answer and publish and process and not _is_near(answer, (process.start - publish.start) / 1e6):
        yield f"BROKER_MS is {answer}; subtract the start of the publish span from that of the process span"
    answer = evidence.answers.get("CLIENT_PORT")
    if answer and server and answer != str(server.attributes.get("client.port")):
        yield f"CLIENT_PORT is {answer}; open the span POST /echo, and read its attribute client.port"


def _is_near(answer: str, milliseconds: float) -> bool:
    # As exact as a person can read the time axis.
    return bool(re.fullmatch(r"\d+(\.\d+)?", answer)) and abs(float(answer) - milliseconds) <= max(
        0.5, milliseconds / 5
    )


def lose_the_context(evidence: Evidence) -> Iterator[str]:
    """Checks the two traces of one reading whose context was lost."""
    if not evidence.viewer.trace_ids(0, time.time_ns(), ("mqtt.missing_context", "true")):
        yield "the backend holds no span with mqtt.missing_context=true: start the producer with MQTT_PROTOCOL=3.1.1"
        return
    published, processed = evidence.trace("PUBLISH_TRACE"), evidence.trace("ORPHAN_TRACE")
    publish, orphan = of_kind(published, "Producer"), of_kind(processed, "Consumer")
    if published and kinds(published) != ["Producer"]:
        yield "PUBLISH_TRACE has more than a publish span: its context was not lost"
    if processed and not (orphan and orphan.attributes.get("mqtt.missing_context")):
        yield "ORPHAN_TRACE has no process span with mqtt.missing_context=true"
    name = "messaging.message.id"
    if publish and orphan and publish.attributes.get(name) != orphan.attributes.get(name):
        yield f"PUBLISH_TRACE and ORPHAN_TRACE are of two readings: compare {name} of their spans"


def publish_with_qos_0(evidence: Evidence) -> Iterator[str]:
    """Looks for a reading with QoS 0 that arrived, one with QoS 1 that waited, and one with QoS 0 that is lost."""
    arrived = {0: False, 1: False}
    for spans in evidence.traces("messaging.destination.name", TOPIC):
        publish, process = of_kind(spans, "Producer"), of_kind(spans, "Consumer")
        if publish and process:
            qos = 1 if publish.attributes.get("messaging.mqtt.qos") == 1 else 0
            arrived[qos] |= qos == 0 or process.start - publish.end > WAITED_NANOSECONDS
    if not arrived[0]:
        yield f"no reading with QoS 0 has arrived at the consumer: {PUBLISH} --qos 0"
    if not arrived[1]:
        yield f"no reading with QoS 1 has waited for the consumer: `make down PART=consumer`, {PUBLISH}, `make up`"
    lost = evidence.trace("LOST_TRACE")
    publish = of_kind(lost, "Producer")
    if lost and kinds(lost) != ["Producer"]:
        yield "LOST_TRACE has more than a publish span, so its reading was not lost"
    elif publish and publish.attributes.get("messaging.mqtt.qos") == 1:
        yield "LOST_TRACE was published with QoS 1: the broker keeps that, and its reading arrives when it can"


def instrument_a_service(evidence: Evidence) -> Iterator[str]:
    """Looks for process spans of the alerter below the publish span: one made by hand, and one by the library."""
    by_hand, by_library = "4-by-hand.py", "4-by-library.py"
    if missing := _not_there(by_hand, f"cp workshop/alerter.py workshop/mine/{by_hand}"):
        yield missing
        return
    # Only the library sets this attribute.
    runs = list(evidence.own_runs("alerter", by_hand))
    own = [(span, spans) for span, spans in runs if "messaging.mqtt.context_source" not in span.attributes]
    if not own:
        yield f"no span of a service called alerter {_since(by_hand)}: set up OpenTelemetry in it, and run it"
        return
    if not any(span.kind == "Consumer" for span, _ in own):
        yield f"the kind of {own[0][0].name} is {own[0][0].kind.upper()}; that of a process span is CONSUMER"
        return
    below = [span for span, spans in own if _is_below_publish(span, spans)]
    if not below:
        yield f"{own[0][0].name} of the alerter is not below a publish span: extract the context, and start it in that"
        return
    for name in ("messaging.system", "messaging.operation.type", "messaging.destination.name"):
        if not any(name in span.attributes for span in below):
            yield f"the process span by hand lacks the attribute {name}"
    if missing := _not_there(by_library, f"cp workshop/mine/{by_hand} workshop/mine/{by_library}"):
        yield missing
    elif not any(
        "messaging.mqtt.context_source" in span.attributes and _is_below_publish(span, spans)
        for span, spans in evidence.own_runs("alerter", by_library)
    ):
        line = "PahoMqttInstrumentor().instrument() in place of your own span"
        yield f"no process span by the library {_since(by_library)}: {line}, and run it"


def _not_there(program: str, command: str) -> str | None:
    return None if (MINE / program).exists() else f"workshop/mine/{program} is not there: `{command}`"


def _since(program: str) -> str:
    return f"since workshop/mine/{program} was changed"


def _is_below_publish(span: Span, spans: list[Span]) -> bool:
    return any(span in children(spans, parent) for parent in spans if parent.kind == "Producer")


def process_a_batch(evidence: Evidence) -> Iterator[str]:
    """Looks for a span with links to the publish spans of five readings, and checks which reading waited longest."""
    program = "5-digest.py"
    if missing := _not_there(program, f"cp workshop/digest.py workshop/mine/{program}"):
        yield missing
        return
    runs = list(evidence.own_runs("digest", program))
    if not runs:
        yield f"no span of a service called digest {_since(program)}: open one around summarise(), and run it"
        return
    batch = next((span for span, _ in runs if span.links), runs[0][0])
    if batch.parent_id:
        yield f"{batch.name} of digest has one of its readings as parent: make it a root, with a link to each of them"
        return
    published = [
        span
        for trace_id, span_id in set(batch.links)
        for span in evidence.viewer.trace(trace_id)
        if (span.span_id, span.kind) == (span_id, "Producer")
    ]
    if len(published) < READINGS_IN_A_BATCH:
        found = f"{len(published)} of its {len(batch.links)} links lead to the publish span of a reading"
        yield f"{batch.name} of digest: {found}; it needs a link to each of {READINGS_IN_A_BATCH}"
        return
    answer = evidence.answers.get("BATCH_TRACE")
    if answer and answer != batch.trace_id:
        yield f"BATCH_TRACE is {answer}, which is not the trace of your newest batch; search for service.name = digest"
    waited = min(published, key=lambda span: span.start).attributes.get("messaging.message.id")
    answer = evidence.answers.get("WAITED_READING")
    if answer and answer != waited:
        yield f"WAITED_READING is {answer}; follow each link of the batch, and compare when the readings were published"


def follow_a_dead_letter(evidence: Evidence) -> Iterator[str]:
    """Checks the trace of a reading that echo refused, and the reason."""
    dead = evidence.traces("messaging.mqtt.dead_letter", f"dead-letter/{TOPIC}")
    if not dead:
        yield f"no reading of workshop-001 is in the dead letters: {PUBLISH} --broken"
        return
    spans = evidence.trace("DEAD_LETTER_TRACE")
    if spans and spans[0].trace_id not in {found[0].trace_id for found in dead}:
        yield "DEAD_LETTER_TRACE is not that of a dead letter of workshop-001; its traceparent is in the dead letter"
        return
    process = of_kind(spans, "Consumer")
    answer = evidence.answers.get("FIELD")
    if process and answer and f'"{answer}"]' not in process.status_message:
        yield f"FIELD is {answer}; read the error of the process span, which says what echo answered"


def outlive_the_collector(evidence: Evidence) -> Iterator[str]:
    """Looks for a trace that came late, and a reading whose trace is not whole."""
    if "Exporting failed. Will retry" not in evidence.runtime.log_text("collector"):
        yield "the Collector has not had to try an export again: `make down PART=gateway`, and publish"
    late = evidence.traces("messaging.destination.name", "sensors/scout-away/reading")
    if not any(kinds(spans) == READING for spans in late):
        yield f"no whole trace of scout-away: {PUBLISH} --device scout-away, then `make up`, and some seconds"
    yield from _lost(evidence, "LOST_READING")


def send_baggage(evidence: Evidence) -> Iterator[str]:
    """Looks for a reading with two entries of baggage, and checks which one became an attribute."""
    if not any(_has_site(spans) for spans in evidence.traces("messaging.destination.name", TOPIC)):
        options = "--baggage site.id=workshop --baggage visitor=Ada"
        yield f"no spans of consumer and echo with site.id=workshop: {PUBLISH} {options}"
        return
    spans = evidence.trace("BAGGAGE_TRACE")
    if spans and not _has_site(spans):
        yield "BAGGAGE_TRACE is not that of a reading with your baggage; publisher.py prints its id"
    answer = evidence.answers.get("ATTRIBUTE")
    if answer and answer != "site.id":
        yield f"ATTRIBUTE is {answer}; look for both names among the attributes of POST /echo"


def _has_site(spans: list[Span]) -> bool:
    away = [span for span in spans if span.kind in ("Consumer", "Server")]
    return len(away) == 2 and all(span.attributes.get("site.id") == "workshop" for span in away)


def sample(evidence: Evidence) -> Iterator[str]:
    """Looks for a reading that was processed without a trace."""
    recent = evidence.processed()[-RECENT_READINGS:]
    if all(evidence.is_whole(message_id) for message_id in recent):
        yield f"each of the last {len(recent)} readings has its trace: start the stack with a ratio below 1"
        return
    yield from _lost(evidence, "UNSAMPLED_READING")


def ask_the_broker(evidence: Evidence) -> Iterator[str]:
    """Looks for a span with the CONNACK's properties, and checks what they mean."""
    program = "10-visitor.py"
    if missing := _not_there(program, f"cp workshop/visitor.py workshop/mine/{program}"):
        yield missing
        return
    spans = [span for span, _ in evidence.own_runs("visitor", program)]
    if not spans:
        yield f"no span of a service called visitor {_since(program)}: run it"
        return
    prefix = "mqtt.connack."
    sent = {name.removeprefix(prefix): value for name, value in spans[0].attributes.items() if name.startswith(prefix)}
    # The program has no client id, so every broker assigns one.
    if "AssignedClientIdentifier" not in sent:
        yield f"{spans[0].name} of visitor lacks {prefix}AssignedClientIdentifier: one attribute for each property"
        return
    granted = CONNACK_DEFAULTS | sent
    for name, field in CONNACK_ANSWERS.items():
        value = str(granted[field])
        right = value if field in ("ReceiveMaximum", "SessionExpiryInterval") else "no" if value == "0" else "yes"
        answer = evidence.answers.get(name)
        if answer and answer != right:
            where = "is in the CONNACK" if field in sent else "is not in the CONNACK: look up its default"
            yield f"{name} is {answer}; {field} {where}"


def _lost(evidence: Evidence, name: str) -> Iterator[str]:
    answer = evidence.answers.get(name)
    if answer and answer not in evidence.processed():
        yield f"{name} is {answer}, which is in no line `processed reading` of `make logs PART=consumer`"
    elif answer and evidence.is_whole(answer):
        yield f"{name} is {answer}, and the backend holds its whole trace: `make trace ID={answer}`"


EXERCISES = {
    "1": Exercise(
        {
            "READING_TRACE": "the id of the trace that `make verify` printed",
            "BROKER_MS": "the milliseconds from the start of the publish span to the start of the process span",
            "CLIENT_PORT": "the port that the consumer called echo from",
        },
        read_one_trace,
    ),
    "2": Exercise(
        {
            "PUBLISH_TRACE": "the id of the trace that holds the publish span of a reading and nothing else",
            "ORPHAN_TRACE": "the id of the trace in which the same reading was processed",
        },
        lose_the_context,
    ),
    "3": Exercise({"LOST_TRACE": "the id of the trace of the reading that was lost"}, publish_with_qos_0),
    "4": Exercise({}, instrument_a_service),
    "5": Exercise(
        {
            "BATCH_TRACE": "the id of the trace of your batch",
            "WAITED_READING": "the message_id of the reading in it that had waited longest",
        },
        process_a_batch,
    ),
    "6": Exercise(
        {
            "DEAD_LETTER_TRACE": "the id of the trace that the dead letter carries",
            "FIELD": "the field of the reading that echo refused",
        },
        follow_a_dead_letter,
    ),
    "7": Exercise(
        {"LOST_READING": "the message_id of a reading that was processed, but has no whole trace"},
        outlive_the_collector,
    ),
    "8": Exercise(
        {
            "BAGGAGE_TRACE": "the id of the trace of a reading with your baggage",
            "ATTRIBUTE": "the name of the entry that became an attribute",
        },
        send_baggage,
    ),
    "9": Exercise({"UNSAMPLED_READING": "the message_id of a reading that was processed but has no trace"}, sample),
    "10": Exercise(
        {
            "RECEIVE_MAXIMUM": "how many messages with QoS 1 a client may send before the first PUBACK",
            "SESSION_SECONDS": "for how long the broker keeps the session of this client",
            "SHARED": "yes or no: does the broker have shared subscriptions?",
            "RETAINED": "yes or no: does it keep retained messages?",
        },
        ask_the_broker,
    ),
}
