# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""`W3C Trace Context, Level 1`_, for receivers that refuse a flag of Level 2.

The SDK makes random trace ids and sets the flag for them, as Level 2 requires: its ``traceparent`` ends in ``03``,
sampled and random. Level 1 has only the sampled flag, and some older libraries treat the other one as an error.

.. _W3C Trace Context, Level 1: https://www.w3.org/TR/trace-context-1/
"""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.propagators.textmap import CarrierT, Setter, default_setter
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator


class TraceContextLevel1Propagator(TraceContextTextMapPropagator):
    """Writes ``traceparent`` with the ``sampled`` flag only, and reads the same as ``tracecontext``.

    ``OTEL_PROPAGATORS=tracecontext_level_1,baggage`` selects it, for everything that the program sends.
    """

    def inject(
        self, carrier: CarrierT, context: Context | None = None, setter: Setter[CarrierT] = default_setter
    ) -> None:
        """Writes the context of the current span; see ``TextMapPropagator.inject``."""
        current = get_current_span(context).get_span_context()
        flags = TraceFlags(current.trace_flags & TraceFlags.SAMPLED)
        level_1 = SpanContext(current.trace_id, current.span_id, current.is_remote, flags, current.trace_state)
        super().inject(carrier, set_span_in_context(NonRecordingSpan(level_1), context), setter)
