# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""Trace context in user properties: the library's three core functions."""

from collections.abc import Iterator
from importlib.metadata import entry_points, version

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry import baggage, propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.instrumentation.paho_mqtt import (
    context_to_user_properties,
    has_trace_context,
    user_properties_to_context,
)
from opentelemetry.instrumentation.paho_mqtt.propagation import missing_context_reason
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import TextMapPropagator, default_getter, default_setter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

TRACE_ID = 0x0AF7651916CD43DD8448EB211C80319C
SPAN_ID = 0xB7AD6B7169203331
TRACEPARENT = f"00-{TRACE_ID:032x}-{SPAN_ID:016x}-01"


def context(trace_state: TraceState | None = None, trace_flags: int = 1) -> Context:
    span_context = SpanContext(TRACE_ID, SPAN_ID, False, TraceFlags(trace_flags), trace_state)
    return trace.set_span_in_context(NonRecordingSpan(span_context), Context())


def extracted(*user_properties: tuple[str, str]) -> SpanContext:
    return trace.get_current_span(user_properties_to_context(user_properties)).get_span_context()


def test_a_context_is_written_under_the_w3c_name_in_lower_case():
    assert context_to_user_properties(context()) == [("traceparent", TRACEPARENT)]


def test_an_unsampled_context_is_written_too():
    assert context_to_user_properties(context(trace_flags=0)) == [("traceparent", TRACEPARENT[:-2] + "00")]


def test_tracestate_and_baggage_are_written():
    full = baggage.set_baggage("tenant", "blue", context(TraceState([("congo", "t61"), ("rojo", "00f")])))
    assert context_to_user_properties(full) == [
        ("traceparent", TRACEPARENT),
        ("tracestate", "congo=t61,rojo=00f"),
        ("baggage", "tenant=blue"),
    ]


def test_no_property_is_written_for_an_empty_context():
    assert context_to_user_properties(Context()) == []


def test_the_current_context_is_the_default():
    with trace.use_span(trace.get_current_span(context())):
        assert context_to_user_properties() == [("traceparent", TRACEPARENT)]


class EmptyFieldPropagator(TextMapPropagator):
    """Has one field with a value, and one without."""

    def inject(self, carrier, context=None, setter=default_setter):
        """Sets both fields."""
        setter.set(carrier, "x-empty", "")
        setter.set(carrier, "x-full", "value")

    def extract(self, carrier, context=None, getter=default_getter):
        """Reads the field with a value."""
        assert getter.keys(carrier) == ["x-full", "x-other"]
        values = getter.get(carrier, "x-full")
        return context_with(context, values)

    @property
    def fields(self) -> set[str]:
        """The names of both fields."""
        return {"x-empty", "x-full"}


def context_with(context: Context | None, values: list[str] | None) -> Context:
    return Context({**(context or {}), "x": values})


@pytest.fixture
def custom_propagator() -> Iterator[None]:
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(CompositePropagator([EmptyFieldPropagator()]))
    yield
    propagate.set_global_textmap(before)


@pytest.mark.usefixtures("custom_propagator")
def test_the_global_propagator_is_used_and_an_empty_value_never_written():
    assert context_to_user_properties() == [("x-full", "value")]
    assert user_properties_to_context([("x-full", "1"), ("x-other", "2")])["x"] == ["1"]


def test_a_context_survives_the_round_trip():
    state = TraceState([("congo", "t61")])
    assert extracted(*context_to_user_properties(context(state))) == SpanContext(
        TRACE_ID, SPAN_ID, True, TraceFlags(1), state
    )


def test_other_properties_are_no_obstacle():
    found = extracted(("a", "1"), ("traceparent", TRACEPARENT), ("a", "2"))
    assert (found.trace_id, found.span_id, found.is_remote) == (TRACE_ID, SPAN_ID, True)


def test_several_tracestate_are_joined_in_their_order():
    found = extracted(("tracestate", "a=1,b=2"), ("traceparent", TRACEPARENT), ("x", "y"), ("tracestate", "c=3"))
    assert list(found.trace_state.items()) == [("a", "1"), ("b", "2"), ("c", "3")]


def test_several_baggage_properties_are_joined():
    found = user_properties_to_context([("baggage", "a=1"), ("baggage", "b=2")])
    assert baggage.get_all(found) == {"a": "1", "b": "2"}


def test_the_current_context_does_not_leak_into_an_extracted_one():
    with trace.use_span(trace.get_current_span(context())):
        assert user_properties_to_context(None) == Context()


@pytest.mark.parametrize(
    ("user_properties", "reason"),
    [
        (None, "absent"),
        ([], "absent"),
        ([("Traceparent", TRACEPARENT), ("TRACEPARENT", TRACEPARENT)], "wrong_case"),
        ([("Traceparent", TRACEPARENT), ("traceparent", "garbage")], "invalid"),
        ([("Tracestate", "a=1"), ("BAGGAGE", "a=1")], "absent"),
        ([("tracestate", "a=1")], "absent"),
        ([("traceparent", "")], "invalid"),
        ([("traceparent", "garbage")], "invalid"),
        ([("traceparent", TRACEPARENT.upper())], "invalid"),
        ([("traceparent", TRACEPARENT + "\0")], "invalid"),
        ([("traceparent", TRACEPARENT + "-extra")], "invalid"),
        ([("traceparent", "ff" + TRACEPARENT[2:])], "invalid"),
        ([("traceparent", f"00-{0:032x}-{SPAN_ID:016x}-01")], "invalid"),
        ([("traceparent", f"00-{TRACE_ID:032x}-{0:016x}-01")], "invalid"),
        ([("traceparent", "garbage"), ("traceparent", "garbage")], "invalid"),
        ([("traceparent", TRACEPARENT), ("traceparent", TRACEPARENT[:-1] + "0")], "duplicate"),
        ([("traceparent", "garbage"), ("traceparent", TRACEPARENT)], "duplicate"),
    ],
)
def test_unusable_contexts(user_properties: list[tuple[str, str]] | None, reason: str):
    assert not has_trace_context(user_properties)
    assert missing_context_reason(user_properties) == reason


def test_a_usable_context():
    assert has_trace_context([("traceparent", TRACEPARENT)])


def test_equal_ones_are_one():
    assert has_trace_context([("traceparent", TRACEPARENT), ("a", "b"), ("traceparent", TRACEPARENT)])


class OneFieldPropagator(TextMapPropagator):
    """A propagator of another kind: trace id and span id in one field, with a name in capitals."""

    def inject(self, carrier, context=None, setter=default_setter):
        """Writes the field."""
        span_context = trace.get_current_span(context).get_span_context()
        setter.set(carrier, "X-Trace", f"{span_context.trace_id}:{span_context.span_id}")

    def extract(self, carrier, context=None, getter=default_getter):
        """Reads the field."""
        trace_id, _, span_id = (getter.get(carrier, "X-Trace") or [""])[0].partition(":")
        if not (trace_id.isdecimal() and span_id.isdecimal()):
            return context or Context()
        span_context = SpanContext(int(trace_id), int(span_id), True, TraceFlags(1))
        return trace.set_span_in_context(NonRecordingSpan(span_context), context)

    @property
    def fields(self) -> set[str]:
        """The name of the field."""
        return {"X-Trace"}


@pytest.fixture
def another_propagator() -> Iterator[None]:
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(CompositePropagator([OneFieldPropagator(), W3CBaggagePropagator()]))
    yield
    propagate.set_global_textmap(before)


@pytest.mark.usefixtures("another_propagator")
@pytest.mark.parametrize(
    ("user_properties", "reason"),
    [
        (None, "absent"),
        ([("traceparent", TRACEPARENT), ("traceparent", "garbage")], "absent"),
        ([("baggage", "a=1"), ("baggage", "b=2")], "absent"),
        ([("X-Trace", "1")], "invalid"),
        ([("X-Trace", "1:2"), ("X-Trace", "1:3")], "duplicate"),
        ([("x-trace", "1:2")], "wrong_case"),
    ],
)
def test_the_reasons_are_those_of_the_configured_propagator(user_properties: list[tuple[str, str]] | None, reason: str):
    assert not has_trace_context(user_properties)
    assert missing_context_reason(user_properties) == reason
    assert has_trace_context([("X-Trace", "1:2")])


class FailingPropagator(TextMapPropagator):
    """Raises in every method."""

    def inject(self, carrier, context=None, setter=default_setter):
        """Fails."""
        raise LookupError

    def extract(self, carrier, context=None, getter=default_getter):
        """Fails."""
        raise LookupError

    @property
    def fields(self) -> set[str]:
        """Fails."""
        raise LookupError


def test_a_propagator_that_fails_finds_no_context():
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(FailingPropagator())
    try:
        assert not has_trace_context([("traceparent", TRACEPARENT)])
        assert missing_context_reason([("traceparent", TRACEPARENT)]) == "absent"
    finally:
        propagate.set_global_textmap(before)


@pytest.fixture
def level_1() -> Iterator[None]:
    before = propagate.get_global_textmap()
    (found,) = entry_points(group="opentelemetry_propagator", name="tracecontext_level_1")
    propagate.set_global_textmap(CompositePropagator([found.load()(), W3CBaggagePropagator()]))
    yield
    propagate.set_global_textmap(before)


def test_what_the_sdk_writes_has_a_flag_of_level_2():
    """If this fails, the propagator below is no longer needed."""
    if version("opentelemetry-sdk").startswith("1.30."):
        pytest.skip("the SDK does so in later releases")
    with TracerProvider().get_tracer("test").start_as_current_span("span"):
        ((_, traceparent),) = context_to_user_properties()
    assert traceparent.endswith("-03")


@pytest.mark.usefixtures("level_1")
@pytest.mark.parametrize(("flags", "written"), [(0, "00"), (1, "01"), (2, "00"), (3, "01"), (0xFF, "01")])
def test_level_1_has_one_flag(flags: int, written: str):
    full = baggage.set_baggage("tenant", "blue", context(TraceState([("congo", "t61")]), trace_flags=flags))
    assert context_to_user_properties(full) == [
        ("traceparent", TRACEPARENT[:-2] + written),
        ("tracestate", "congo=t61"),
        ("baggage", "tenant=blue"),
    ]
    assert context_to_user_properties(Context()) == []


@pytest.mark.usefixtures("level_1")
def test_level_1_reads_level_2():
    assert extracted(("traceparent", TRACEPARENT[:-2] + "03")).trace_flags == 3


def test_a_future_version_of_traceparent_is_read_as_w3c_asks():
    assert has_trace_context([("traceparent", "01" + TRACEPARENT[2:] + "-what-comes-later")])


NAMES = st.one_of(st.sampled_from(["traceparent", "Traceparent", "tracestate", "baggage", ""]), st.text())
VALUES = st.one_of(
    st.sampled_from([TRACEPARENT, TRACEPARENT.upper(), "a=1,b=2", "x" * 70_000, "\0", "\ud800"]),
    st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"),
    st.text(),
)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=50))
@example([("key", "value")] * 5000 + [("traceparent", TRACEPARENT)])
@example([("tracestate", "a=1")] * 5000 + [("traceparent", TRACEPARENT)])
def test_any_user_properties_are_read_without_an_exception(user_properties: list[tuple[str, str]]):
    usable = has_trace_context(user_properties)
    parents = [value for name, value in user_properties if name == "traceparent"]
    assert usable == extracted(*user_properties).is_valid
    if usable:
        assert len(set(parents)) == 1
    elif parents:
        assert missing_context_reason(user_properties) == ("invalid" if len(set(parents)) == 1 else "duplicate")
    else:
        spelled_otherwise = any(name.lower() == "traceparent" for name, _ in user_properties)
        assert missing_context_reason(user_properties) == ("wrong_case" if spelled_otherwise else "absent")
