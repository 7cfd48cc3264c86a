"""What the stack emits matches ``packages/telemetry/schema/``, and the other way round."""

import json
import pkgutil
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from unittest.mock import Mock
from uuid import uuid4

import opentelemetry.semconv._incubating.metrics
import pytest
from conventions import EntityGroup, Enumeration, Fact, MetricGroup, Registry, SpanGroup
from opentelemetry.instrumentation.paho_mqtt.conventions import SCHEMA_URL
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.semconv.schemas import Schemas
from recorder import Recorder, recording

from harness import Stack, eventually, reading
from stack.settings import ROOT

SCHEMA = ROOT / "packages" / "telemetry" / "schema"
REGISTRY = Registry(SCHEMA)

# In the schema, but not emitted in this run.
NOT_HERE: dict[tuple[str, str], str] = {
    ("producer span", "messaging.mqtt.retain"): "the producer publishes no retained readings",
    **{
        (what, "error.type"): "no publish fails: what the producer cannot send, it keeps or drops"
        for what in (
            "producer span",
            "metric messaging.client.operation.duration",
            "metric messaging.client.sent.messages",
        )
    },
    ("consumer span", "messaging.mqtt.retain"): "a shared subscription brings no retained messages (MQTT 5.0, 4.8.2)",
    ("mqtt_delivery.cause", "value"): "not all causes of a dead letter or a drop",
    ("metric messaging.process.duration", "error.type"): "mqtt-delivery handles all errors itself",
    **{
        ("metric mqtt_delivery.consumer.malformed_packets", what): "the broker sends nothing that is malformed"
        for what in ("instrument", "unit")
    },
    **{
        (what, "messaging.consumer.group.name"): "one consumer alone has no shared subscription"
        for what in (
            "consumer span",
            "metric messaging.client.consumed.messages",
            "metric messaging.process.duration",
        )
    },
    **{
        (what, "error.type"): "echo fails at nothing"
        for what in (
            "server span",
            "metric http.server.request.duration",
            "metric http.server.request.body.size",
            "metric http.server.response.body.size",
        )
    },
    **{("log record", f"exception.{name}"): "nothing unforeseen" for name in ("type", "message", "stacktrace")},
}
# The SDK writes a string, but the conventions require a boolean.
DEVIATIONS: dict[Fact, Fact] = {
    ("event exception", "exception.escaped", "boolean"): ("event exception", "exception.escaped", "string"),
}


# ---------------------------------------------------------------------- what was emitted


def value_type(value: AnyValue) -> str:
    names = {"string_value": "string", "int_value": "int", "double_value": "double", "bool_value": "boolean"}
    return names.get(str(value.WhichOneof("value")), "any")


def facts_of(what: str, attributes: Iterable[KeyValue]) -> Iterator[Fact]:
    """The attributes of one item with their types, and those that it lacks."""
    found = {attribute.key: attribute.value for attribute in attributes}
    for name, value in found.items():
        yield what, name, value_type(value)
        if name in REGISTRY.definitions and isinstance(REGISTRY.definitions[name].type, Enumeration):
            yield name, "value", value.string_value
    if group := REGISTRY.emitted.get(what):
        for reference in REGISTRY.references(group):
            if reference.requirement_level == "required" and reference.ref not in found:
                yield what, reference.ref, "missing"


def facts_of_span(span: Span) -> Iterator[Fact]:
    what = f"{Span.SpanKind.Name(span.kind).removeprefix('SPAN_KIND_').lower()} span"
    yield from facts_of(what, span.attributes)
    values = {attribute.key: attribute.value.string_value for attribute in span.attributes}
    group = REGISTRY.emitted.get(what)
    patterns = group.annotations.span_name if isinstance(group, SpanGroup) else []
    matching = [
        pattern
        for pattern in patterns
        if span.name == re.sub(r"{(.+?)}", lambda name: values.get(name[1], name[0]), pattern)
    ]
    yield what, "span name", (matching or [span.name])[0]
    for event in span.events:
        yield what, "event", event.name
        yield from facts_of(f"event {event.name}", event.attributes)


def facts_of_metric(metric: Metric) -> Iterator[Fact]:
    what = f"metric {metric.name}"
    form = str(metric.WhichOneof("data"))
    data = getattr(metric, form)
    if form == "sum":
        form = "counter" if data.is_monotonic else "updowncounter"
    yield what, "instrument", form
    yield what, "unit", metric.unit
    for point in data.data_points:
        yield from facts_of(what, point.attributes)


def facts_of_resource(attributes: Iterable[KeyValue]) -> Iterator[Fact]:
    left = list(attributes)
    for entity in REGISTRY.of(EntityGroup):
        names = {reference.ref for reference in entity.attributes}
        if its := [attribute for attribute in left if attribute.key in names]:
            yield from facts_of(f"resource {entity.name}", its)
            left = [attribute for attribute in left if attribute.key not in names]
    yield from facts_of("resource", left)


def facts_in(recorder: Recorder) -> set[Fact]:
    everything = (*recorder.spans, *recorder.metrics, *recorder.logs)
    facts = {fact for source in everything for fact in facts_of_resource(source.resource.attributes)}
    for source in list(recorder.spans):
        facts.update(fact for scope in source.scope_spans for span in scope.spans for fact in facts_of_span(span))
    for source in list(recorder.metrics):
        facts.update(fact for scope in source.scope_metrics for item in scope.metrics for fact in facts_of_metric(item))
    for source in list(recorder.logs):
        records = (record for scope in source.scope_logs for record in scope.log_records)
        facts.update(fact for record in records for fact in facts_of("log record", record.attributes))
    return facts


# ---------------------------------------------------------------------- the run


def with_property(name: str, *values: str) -> list[str]:
    pairs = [word for value in values for word in ("-D", "publish", "user-property", name, value)]
    return ["-V", "mqttv5", *pairs]


def expected() -> set[Fact]:
    facts = {DEVIATIONS.get(fact, fact) for fact in REGISTRY.facts()}
    return {fact for fact in facts if fact[:2] not in NOT_HERE}


def live_through_everything(stack: Stack, recorder: Recorder) -> None:
    """Makes the stack emit all that it can."""
    traceparent = f"00-{uuid4().hex}-{uuid4().hex[:16]}-01"
    publish = stack.publish_with_mosquitto_pub

    def log_of(part: str) -> str:
        return stack.runtime.log_text(part)

    def has(*fact: str) -> bool:
        return fact in facts_in(recorder)

    # A batch with one of these is split, so each has its own process span.
    for traceparents in ([], [traceparent.replace("00-", "ff-", 1)], [traceparent, traceparent[:-1] + "0"]):
        publish("sensors/legacy/reading", "no JSON", *with_property("traceparent", *traceparents))
    publish("sensors/legacy/reading", "no JSON", *with_property("Traceparent", traceparent))

    def enveloped() -> bool:
        payload = json.dumps(reading(device_id="foreign", traceparent=traceparent))
        publish("sensors/enveloped/reading", payload, "-V", "mqttv311")
        return has("messaging.mqtt.context_source", "value", "json_payload")

    eventually(enveloped)

    # Readings pile up: the consumer leaves some unacknowledged, and gets batches when it is back.
    stack.stop_part("echo")
    # This message is not JSON, so it cannot be in a batch and is retried alone.
    publish("sensors/broken/reading", "no JSON", *with_property("traceparent", traceparent))
    eventually(lambda: any("ConnectionError" in str(source) for source in recorder.spans))
    eventually(lambda: has("metric mqtt_delivery.consumer.retries", "error.type", "string"))
    stack.stop_part("consumer")
    for number in range(6):
        publish(f"sensors/foreign-{number}/reading", json.dumps(reading(device_id="foreign")))
    stack.start_part("echo")
    stack.start_part("consumer")
    eventually(lambda: has("consumer span", "messaging.mqtt.dup", "boolean"))

    # The same id a second time.
    again = json.dumps(reading(device_id="foreign"))
    publish("sensors/foreign/reading", again)
    publish("sensors/foreign/reading", again)
    eventually(lambda: "was processed before" in log_of("consumer"))

    stack.stop_part("mosquitto")
    eventually(lambda: "dropping messages" in log_of("producer"))
    # The broker forgets the consumer's session.
    shutil.rmtree(stack.settings.run_dir / "mosquitto" / "data")
    stack.start_part("mosquitto")
    eventually(lambda: "takes messages again" in log_of("producer"))
    eventually(lambda: "the broker has lost the session" in log_of("consumer"))


def listed(facts: Iterable[Fact]) -> str:
    return "\n".join(": ".join(fact) for fact in sorted(facts))


@pytest.fixture(scope="module")
def emitted(new_shared_stack: Callable[..., Stack], tmp_path_factory: pytest.TempPathFactory) -> set[Fact]:
    """Everything that a stack has emitted."""
    with recording() as recorder:
        stack = new_shared_stack(
            MQTT_JSON_ENVELOPE="1",
            DEVICES="1",
            INTERVAL_SECONDS="0.2",
            WORKERS="1",
            BATCH_SIZE="3",
            BATCH_SECONDS="0",
            BUFFER_SIZE="3",
            BUFFER_FILE=str(tmp_path_factory.mktemp("producer") / "buffer.db"),
            OTEL_METRIC_EXPORT_INTERVAL="1000",
            **recorder.scout_values,
        )
        stack.up()
        live_through_everything(stack, recorder)
        deadline = time.monotonic() + 15
        while not expected() <= facts_in(recorder) and time.monotonic() < deadline:
            time.sleep(0.2)
        stack.runtime.down()
        return facts_in(recorder)


def test_all_that_is_emitted_is_in_the_schema(emitted: set[Fact]) -> None:
    allowed = {DEVIATIONS.get(fact, fact) for fact in REGISTRY.allowed_facts()}
    unknown = emitted - allowed
    assert not unknown, listed(unknown)


def test_all_that_is_in_the_schema_is_emitted(emitted: set[Fact]) -> None:
    missing = expected() - emitted
    assert not missing, listed(missing)


# ---------------------------------------------------------------------- the schema itself


def test_it_builds_on_the_conventions_of_the_installed_package() -> None:
    (upstream,) = REGISTRY.manifest.dependencies
    assert str(upstream.schema_url) == list(Schemas)[-1].value == SCHEMA_URL
    assert f"@v{str(upstream.schema_url).rpartition('/')[2]}[" in upstream.registry_path


def test_what_is_left_out_is_in_the_schema() -> None:
    known = {fact[:2] for fact in REGISTRY.allowed_facts()}
    assert sorted(NOT_HERE.keys() - known) == []
    assert sorted(DEVIATIONS.keys() - REGISTRY.allowed_facts()) == []


def test_our_own_names_are_namespaced_as_the_conventions_want() -> None:
    """https://opentelemetry.io/docs/specs/semconv/general/naming/."""
    libraries = set(REGISTRY.defined_in("registry.libraries"))
    names = [*(REGISTRY.definitions.keys() - libraries), *(what for what in REGISTRY.emitted if " " in what)]
    wrong = [name for name in names if not re.fullmatch(r"([a-z]+ )?[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+", name)]
    # Names without a namespace: the conventions' own, spans identified by their kind, and the sample's metric.
    unnamed = [f"{group.span_kind} span" for group in REGISTRY.of(SpanGroup)]
    assert sorted(set(wrong) - {"event exception", "log record", "metric message_count", *unnamed}) == []


def test_metrics_of_the_conventions_have_their_instruments_and_units() -> None:
    package = opentelemetry.semconv._incubating.metrics
    theirs: dict[str, tuple[str, str]] = {}
    for module in pkgutil.iter_modules(package.__path__):
        for name, create in vars(import_module(f"{package.__name__}.{module.name}")).items():
            if name.startswith("create_"):
                meter = Mock()
                create(meter, *[None] * (create.__code__.co_argcount - 1))
                ((method, _, values),) = meter.method_calls
                instrument = re.sub("create_|observable_|_", "", method)
                theirs[values["name"]] = (instrument, values["unit"])
    ours = {group.metric_name: (group.instrument, group.unit) for group in REGISTRY.of(MetricGroup)}
    different = {name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]}
    # opentelemetry-instrumentation-system-metrics emits these without a unit.
    assert different == {"process.open_file_descriptor.count", "process.thread.count"}
    assert len(ours.keys() & theirs.keys()) == 14


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        ("spans.yaml", "span_kind: producer", "span_kind: sender", "Input should be 'client', 'server'"),
        ("spans.yaml", "ref: messaging.mqtt.qos", "ref: mqtt.quality", "nobody defines {'mqtt.quality'}"),
        ("spans.yaml", "ref: messaging.mqtt.dup", "ref: messaging.mqtt.qos", "nothing has {'messaging.mqtt.dup'}"),
        ("metrics.yaml", "instrument: gauge", "instrument: meter", "Input should be 'counter', 'gauge'"),
        ("metrics.yaml", "unit: s", "units: s", "Extra inputs are not permitted"),
        ("attributes.yaml", "id: messaging.mqtt.qos", "id: messaging.message.id", "the conventions define"),
        ("attributes.yaml", "id: messaging.mqtt.dup", "id: messaging.mqtt.qos", "an id is there twice"),
        ("attributes.yaml", "examples: [0, 1, 2]", "examples: [zero]", "an example is no int"),
        ("attributes.yaml", "examples: [sensor-001]", "examples: []", "a string needs examples"),
    ],
)
def test_a_mistake_in_the_schema_is_found(tmp_path: Path, file: str, old: str, new: str, problem: str) -> None:
    for path in SCHEMA.glob("*.yaml"):
        (tmp_path / path.name).write_text(path.read_text())
    text = (tmp_path / file).read_text()
    assert old in text
    Registry(tmp_path)
    (tmp_path / file).write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=re.escape(problem)):
        Registry(tmp_path)
