# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""Trace context in user properties: the three functions that are the library's core."""

from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry import baggage, propagate, trace
from opentelemetry.context import Context
from opentelemetry.instrumentation.paho_mqtt import (
    context_to_user_properties,
    has_trace_context,
    user_properties_to_context,
)
from opentelemetry.instrumentation.paho_mqtt.propagation import missing_context_reason
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import TextMapPropagator, default_getter, default_setter
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
    """One field with a value, one without."""

    def inject(self, carrier, context=None, setter=default_setter):
        """Sets both."""
        setter.set(carrier, "x-empty", "")
        setter.set(carrier, "x-full", "value")

    def extract(self, carrier, context=None, getter=default_getter):
        """Reads the one."""
        assert getter.keys(carrier) == ["x-full", "x-other"]
        values = getter.get(carrier, "x-full")
        return context_with(context, values)

    @property
    def fields(self) -> set[str]:
        """Names both."""
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
        ([("Traceparent", TRACEPARENT), ("TRACEPARENT", TRACEPARENT)], "absent"),
        ([("tracestate", "a=1")], "absent"),
        ([("traceparent", "")], "invalid"),
        ([("traceparent", "garbage")], "invalid"),
        ([("traceparent", TRACEPARENT.upper())], "invalid"),
        ([("traceparent", TRACEPARENT + "\0")], "invalid"),
        ([("traceparent", TRACEPARENT + "-extra")], "invalid"),
        ([("traceparent", "ff" + TRACEPARENT[2:])], "invalid"),
        ([("traceparent", f"00-{0:032x}-{SPAN_ID:016x}-01")], "invalid"),
        ([("traceparent", f"00-{TRACE_ID:032x}-{0:016x}-01")], "invalid"),
        ([("traceparent", TRACEPARENT), ("traceparent", TRACEPARENT)], "duplicate"),
        ([("traceparent", "garbage"), ("traceparent", TRACEPARENT)], "duplicate"),
    ],
)
def test_unusable_contexts(user_properties: list[tuple[str, str]] | None, reason: str):
    assert not has_trace_context(user_properties)
    assert missing_context_reason(user_properties) == reason


def test_a_usable_context():
    assert has_trace_context([("traceparent", TRACEPARENT)])


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
        assert len(parents) == 1
    else:
        assert missing_context_reason(user_properties) == {0: "absent", 1: "invalid"}.get(len(parents), "duplicate")
