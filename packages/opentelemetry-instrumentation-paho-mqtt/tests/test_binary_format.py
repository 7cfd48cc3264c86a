# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""The W3C Trace Context binary format; the vectors are the examples of its draft."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.instrumentation.paho_mqtt import bytes_to_span_context, span_context_to_bytes
from opentelemetry.trace import INVALID_SPAN_CONTEXT, SpanContext, TraceFlags, TraceState

TRACEPARENT = bytes.fromhex("00 00 4bf92f3577b34da6a3ce929d000e4736 01 34f067aa0ba902b7 02 01")
TRACESTATE = b"\0\x03foo\x1034f067aa0ba902b7" + b"\0\x03bar\x040.25"
SPAN_CONTEXT = SpanContext(
    trace_id=0x4BF92F3577B34DA6A3CE929D000E4736,
    span_id=0x34F067AA0BA902B7,
    is_remote=True,
    trace_flags=TraceFlags(1),
    trace_state=TraceState([("foo", "34f067aa0ba902b7"), ("bar", "0.25")]),
)


def test_the_examples_of_the_draft():
    assert span_context_to_bytes(SPAN_CONTEXT) == (TRACEPARENT, TRACESTATE)
    assert bytes_to_span_context(TRACEPARENT, TRACESTATE) == SPAN_CONTEXT


def test_a_tracestate_is_not_needed():
    decoded = bytes_to_span_context(TRACEPARENT)
    assert decoded is not None
    assert decoded.trace_state == TraceState()
    assert span_context_to_bytes(decoded) == (TRACEPARENT, b"")


def test_padding_is_ignored():
    assert bytes_to_span_context(TRACEPARENT + b"\0\0\0", TRACESTATE + b"\0") == SPAN_CONTEXT
    assert bytes_to_span_context(TRACEPARENT + b"\xff", TRACESTATE + b"\0\0\xff") == SPAN_CONTEXT


def test_a_later_version_is_read_as_version_0():
    assert bytes_to_span_context(b"\x01" + TRACEPARENT[1:] + b"\x03later", TRACESTATE) == SPAN_CONTEXT


def test_only_the_sampled_flag_is_used():
    decoded = bytes_to_span_context(TRACEPARENT[:-1] + b"\xfe")
    assert decoded is not None
    assert decoded.trace_flags == 0


@pytest.mark.parametrize(
    "traceparent",
    [
        b"",
        TRACEPARENT[:-1],
        TRACEPARENT[:1] + b"\x03" + TRACEPARENT[2:],
        TRACEPARENT[:18] + b"\x03" + TRACEPARENT[19:],
        TRACEPARENT[:27] + b"\x03" + TRACEPARENT[28:],
        TRACEPARENT[:2] + bytes(16) + TRACEPARENT[18:],
        TRACEPARENT[:19] + bytes(8) + TRACEPARENT[27:],
    ],
)
def test_an_invalid_traceparent(traceparent):
    assert bytes_to_span_context(traceparent) is None


@pytest.mark.parametrize(
    "tracestate",
    [
        b"\x01" + TRACESTATE[1:],
        TRACESTATE[:1] + b"\xff" + TRACESTATE[2:],
        TRACESTATE[:-1],
        TRACESTATE[:5],
        b"\0\x01\xff\x01a",
        b"\0\x01a\x011" * 33,
    ],
)
def test_an_invalid_tracestate_is_left_out(tracestate):
    decoded = bytes_to_span_context(TRACEPARENT, tracestate)
    assert decoded is not None
    assert decoded.trace_state == TraceState()


@pytest.mark.parametrize(
    "span_context",
    [
        INVALID_SPAN_CONTEXT,
        SpanContext(1, 1, False, TraceFlags(0), TraceState([("a", "x" * 256)])),
    ],
)
def test_what_cannot_be_encoded(span_context):
    with pytest.raises(ValueError, match=r"."):
        span_context_to_bytes(span_context)


KEYS = st.from_regex(r"[a-z][a-z0-9]{0,20}", fullmatch=True)


@given(
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.integers(0, 1),
    st.dictionaries(KEYS, KEYS, max_size=32),
)
def test_the_round_trip(trace_id, span_id, flags, members):
    span_context = SpanContext(trace_id, span_id, True, TraceFlags(flags), TraceState(list(members.items())))
    assert bytes_to_span_context(*span_context_to_bytes(span_context)) == span_context


@given(st.binary(), st.binary())
def test_any_bytes_are_read_without_an_exception(traceparent, tracestate):
    bytes_to_span_context(traceparent, tracestate)
    assert bytes_to_span_context(TRACEPARENT + traceparent, tracestate) is not None
