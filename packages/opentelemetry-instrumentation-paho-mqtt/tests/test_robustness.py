# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""When telemetry fails, paho and the message must work as if there were none."""

from collections.abc import Callable

import paho.mqtt.client as mqtt
import pytest
from opentelemetry import propagate
from opentelemetry.baggage import get_all
from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.instrumentation.paho_mqtt import process_batch, process_span, user_properties_to_context
from opentelemetry.propagators.textmap import TextMapPropagator, default_getter, default_setter
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Sampler
from opentelemetry.trace import SpanKind, TraceFlags, get_current_span
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

Connect = Callable[..., mqtt.Client]
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class FailingSampler(Sampler):
    """Raises instead of deciding."""

    def should_sample(self, *args, **kwargs):
        """Fails."""
        raise RuntimeError("sampler")

    def get_description(self):
        """The sampler's name."""
        return "failing"


class FailingProcessor(SpanProcessor):
    """Raises when a span ends."""

    def on_end(self, span):
        """Fails."""
        raise RuntimeError("processor")


class FailingPropagator(TextMapPropagator):
    """Raises in both directions."""

    def inject(self, carrier, context=None, setter=default_setter):
        """Fails."""
        raise RuntimeError("inject")

    def extract(self, carrier, context=None, getter=default_getter) -> Context:
        """Fails."""
        raise RuntimeError("extract")

    @property
    def fields(self) -> set[str]:
        """There are none."""
        return set()


def failing_processor() -> TracerProvider:
    provider = TracerProvider()
    provider.add_span_processor(FailingProcessor())
    return provider


@pytest.fixture
def failing_propagator():
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(FailingPropagator())
    yield
    propagate.set_global_textmap(before)


def exchange(connect: Connect, topic, inbox) -> None:
    client = connect(topic, on_message=inbox)
    for qos in (0, 1, 2):
        client.publish(topic, str(qos), qos=qos)
    assert sorted(message.payload for message in inbox.wait_for(3)) == [b"0", b"1", b"2"]


@pytest.mark.parametrize("provider", [lambda: TracerProvider(sampler=FailingSampler()), failing_processor])
def test_failing_parts_of_the_sdk(connect: Connect, instrument, topic, inbox, caplog, provider):
    instrument(tracer_provider=provider())
    exchange(connect, topic, inbox)
    for opened in (process_span(inbox.messages[0]), process_batch(inbox.messages)):
        with opened:
            pass
    assert "failed; the message goes on without" in caplog.text


@pytest.mark.usefixtures("failing_propagator", "instrumented")
def test_a_failing_propagator_costs_no_message_and_no_span(connect: Connect, spans, topic, inbox):
    exchange(connect, topic, inbox)
    spans.published(3)
    spans.processed(3)


def test_unsampled_spans_still_carry_their_context(connect: Connect, instrument, topic, inbox):
    instrument(tracer_provider=TracerProvider(sampler=ALWAYS_OFF))
    exchange(connect, topic, inbox)
    for message in inbox.messages:
        flags = dict(message.properties.UserProperty)["traceparent"].rpartition("-")[2]
        assert int(flags, 16) & TraceFlags.SAMPLED == 0


@pytest.mark.usefixtures("instrumented")
def test_wrong_arguments_are_for_paho_to_name(spans):
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    with pytest.raises(TypeError, match=r"publish\(\)"):
        client.publish()  # pyright: ignore[reportCallIssue] (that is the mistake)
    with pytest.raises(TypeError, match="unknown"):
        client.publish("topic", unknown=1)  # pyright: ignore[reportCallIssue] (that is the mistake)
    assert spans.started == 0


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("topic", ["\ud800", "", "a\0b", "x" * 70_000, None, b"bytes", "ä/ö"])
def test_any_topic_is_published_as_without_instrumentation_and_can_be_exported(spans, topic):
    def outcome(client: mqtt.Client):
        try:
            return client.publish(topic, qos=0).rc
        except Exception as error:
            return type(error)

    raw = outcome(uninstrumented())
    assert outcome(mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)) is raw
    encode_spans(spans.wait_for(1, SpanKind.PRODUCER))


def uninstrumented() -> mqtt.Client:
    class Raw(mqtt.Client):
        publish = mqtt.Client.publish.__wrapped__  # pyright: ignore[reportFunctionMemberAccess] (wraps')

    return Raw(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)


class Sdkless:
    """A client in a program without an SDK."""

    def __init__(self) -> None:
        self.contexts: list[Context] = []
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self.client.on_message = lambda *_: self.contexts.append(get_current())

    def published(self) -> list[tuple[str, str]]:
        """Publishes a message, and returns its user properties."""
        self.client.publish("topic", qos=1)
        message = list(self.client._out_messages.values())[-1]
        return vars(message.properties).get("UserProperty", []) if message.properties is not None else []


@pytest.fixture
def sdkless(instrument) -> Sdkless:
    instrument(tracer_provider=None)
    return Sdkless()


def test_without_an_sdk_the_context_of_the_caller_is_passed_on(sdkless: Sdkless):
    assert sdkless.published() == []
    remote = user_properties_to_context([("traceparent", TRACEPARENT), ("baggage", "tenant=blue")])
    token = attach(remote)
    published = sdkless.published()
    detach(token)
    assert published == [("traceparent", TRACEPARENT), ("baggage", "tenant=blue")]


@pytest.mark.parametrize("process_spans", [True, False])
def test_without_an_sdk_the_context_of_the_message_is_the_handler_s(instrument, process_spans):
    instrument(tracer_provider=None, process_spans=process_spans)
    sdkless = Sdkless()
    message = mqtt.MQTTMessage(topic=b"topic")
    sdkless.client._handle_on_message(message)
    message.properties = Properties(PacketTypes.PUBLISH)
    message.properties.UserProperty = [("traceparent", TRACEPARENT), ("baggage", "tenant=blue")]
    sdkless.client._handle_on_message(message)
    with process_span(message):
        sdkless.contexts.append(get_current())
    assert get_current() == Context()
    seen = [(get_current_span(context).get_span_context().is_valid, get_all(context)) for context in sdkless.contexts]
    nothing, carried = (False, {}), (True, {"tenant": "blue"})
    assert seen == [nothing, carried if process_spans else nothing, carried]


def test_without_an_sdk_hooks_are_called(instrument):
    def hook(*arguments: object) -> None:
        called.append(len(arguments))

    called: list[int] = []
    instrument(tracer_provider=None, publish_hook=hook, process_hook=hook)
    sdkless = Sdkless()
    sdkless.published()
    sdkless.client._handle_on_message(mqtt.MQTTMessage(topic=b"topic"))
    assert called == [4, 2]
