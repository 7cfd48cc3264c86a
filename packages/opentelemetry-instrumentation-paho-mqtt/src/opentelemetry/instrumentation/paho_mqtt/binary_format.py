# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""Trace context in binary payloads: the draft `W3C Trace Context binary format`_, version 0.

The format of the payload decides where the bytes go; this package does not write them anywhere by itself.

.. _W3C Trace Context binary format: https://w3c.github.io/trace-context-binary/
"""

from __future__ import annotations

from opentelemetry.trace import SpanContext, TraceFlags, TraceState

# The version, then trace id, parent id and flags, each preceded by its field identifier.
_TRACEPARENT_LENGTH = 1 + (1 + 16) + (1 + 8) + (1 + 1)
_MAXIMUM_MEMBERS = 32
_SAMPLED = 0x01


def span_context_to_bytes(span_context: SpanContext) -> tuple[bytes, bytes]:
    """Encodes a span context.

    Args:
        span_context: The context to encode.

    Returns:
        The binary ``traceparent``, 29 bytes, and the binary ``tracestate``, empty if there is none.

    Raises:
        ValueError: The span context is not valid, or a member of its trace state is longer than 255 bytes.
    """
    if not span_context.is_valid:
        raise ValueError("only a valid span context can be encoded")
    traceparent = b"".join(
        [
            b"\x00",
            b"\x00" + span_context.trace_id.to_bytes(16, "big"),
            b"\x01" + span_context.span_id.to_bytes(8, "big"),
            b"\x02" + bytes([span_context.trace_flags & _SAMPLED]),
        ]
    )
    members = list(span_context.trace_state.items())[:_MAXIMUM_MEMBERS]
    return traceparent, b"".join(b"\x00" + _sized(key) + _sized(value) for key, value in members)


def bytes_to_span_context(traceparent: bytes, tracestate: bytes = b"") -> SpanContext | None:
    """Decodes a span context.

    Args:
        traceparent: The binary ``traceparent``. Bytes after the first 29 are padding, or belong to a later version.
        tracestate: The binary ``tracestate``.

    Returns:
        The remote span context, or None if the ``traceparent`` is not valid. An invalid ``tracestate`` is dropped, as
        W3C Trace Context requires.
    """
    if len(traceparent) < _TRACEPARENT_LENGTH or (traceparent[1], traceparent[18], traceparent[27]) != (0, 1, 2):
        return None
    span_context = SpanContext(
        trace_id=int.from_bytes(traceparent[2:18], "big"),
        span_id=int.from_bytes(traceparent[19:27], "big"),
        is_remote=True,
        trace_flags=TraceFlags(traceparent[28] & _SAMPLED),
        trace_state=_trace_state(tracestate),
    )
    return span_context if span_context.is_valid else None


def _sized(text: str) -> bytes:
    encoded = text.encode("ascii")
    if len(encoded) > 255:
        raise ValueError("a key or value of a trace state is longer than 255 bytes")
    return bytes([len(encoded)]) + encoded


def _trace_state(data: bytes) -> TraceState:
    members: list[tuple[str, str]] = []
    position = 0
    try:
        # An empty key ends the list; the rest is padding.
        while data[position : position + 2] not in (b"", b"\x00", b"\x00\x00"):
            if data[position] != 0 or len(members) == _MAXIMUM_MEMBERS:
                return TraceState()
            key, position = _read_sized(data, position + 1)
            value, position = _read_sized(data, position)
            members.append((key, value))
    except (IndexError, UnicodeDecodeError):
        return TraceState()
    return TraceState(members)


def _read_sized(data: bytes, position: int) -> tuple[str, int]:
    """The string at a position, and the position after it."""
    end = position + 1 + data[position]
    if end > len(data):
        raise IndexError("the string is cut off")
    return data[position + 1 : end].decode("ascii"), end
