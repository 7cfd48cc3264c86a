# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""This receiver passes the test vectors for receivers in any language."""

import json
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import baggage
from opentelemetry.instrumentation.paho_mqtt import has_trace_context, user_properties_to_context
from opentelemetry.instrumentation.paho_mqtt.propagation import missing_context_reason
from opentelemetry.trace import format_span_id, format_trace_id, get_current_span

VECTORS = json.loads((Path(__file__).parents[3] / "interop" / "vectors.json").read_text())["vectors"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_a_receiver_makes_of_the_user_properties_what_the_vector_says(vector: dict[str, Any]):
    user_properties = [(name, value) for name, value in vector["user_properties"]]
    context = user_properties_to_context(user_properties)
    found: dict[str, object] = {"baggage": dict(baggage.get_all(context))}
    if has_trace_context(user_properties):
        span_context = get_current_span(context).get_span_context()
        found |= {
            "trace_id": format_trace_id(span_context.trace_id),
            "span_id": format_span_id(span_context.span_id),
            "sampled": span_context.trace_flags.sampled,
            "tracestate": span_context.trace_state.to_header(),
        }
    else:
        found["missing_context"] = missing_context_reason(user_properties)
    # A vector specifies only the fields that it names.
    assert {name: value for name, value in found.items() if name in vector["expected"]} == vector["expected"]


def test_every_vector_has_a_name_of_its_own():
    assert len({vector["name"] for vector in VECTORS}) == len(VECTORS)
