# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""Trace context in MQTT 5 user properties.

A user property is a pair of UTF-8 strings, and a message may carry any number of them, also with equal names
(MQTT 5.0, 3.3.2.3.7). The names and values are those of W3C Trace Context, in lower case as there; that they travel
in user properties is a de-facto convention.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

from opentelemetry.context import Context
from opentelemetry.instrumentation.paho_mqtt.text import encodable
from opentelemetry.propagate import extract, inject
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import NonRecordingSpan, Span, get_current_span

_logger = logging.getLogger(__name__)

UserProperties = Sequence[tuple[str, str]]

_TRACEPARENT = "traceparent"
# Fields that W3C lets a sender split over several headers, which then count as one list.
_LISTS = frozenset({"tracestate", "baggage"})


class _UserPropertyGetter(Getter[UserProperties]):
    def get(self, carrier: UserProperties, key: str) -> list[str] | None:
        values = [encodable(value) for name, value in carrier if name == key]
        if key in _LISTS and values:
            return [",".join(values)]
        # Two of them contradict each other: neither can be trusted.
        if key == _TRACEPARENT and len(values) > 1:
            return None
        return values or None

    def keys(self, carrier: UserProperties) -> list[str]:
        return [name for name, _ in carrier]


_getter = _UserPropertyGetter()


def context_to_user_properties(context: Context | None = None) -> list[tuple[str, str]]:
    """Writes a context as user properties, with the globally configured propagator.

    Args:
        context: The context to write; the current one if None.

    Returns:
        Name and value pairs for ``Properties.UserProperty``. Fields without a value are left out.
    """
    carrier: dict[str, str] = {}
    try:
        inject(carrier, context)
    except Exception:
        _logger.exception("the propagator failed; the message goes out without its fields")
    return [(name, value) for name, value in carrier.items() if value]


def user_properties_to_context(user_property: UserProperties | None) -> Context:
    """Reads the context that a message carries, with the globally configured propagator.

    Args:
        user_property: The message's ``properties.UserProperty``; None counts as empty.

    Returns:
        The remote context; an empty one if the message carries none that is usable. Never the current context, so
        that a message without one does not become a child of whatever runs at the time.
    """
    if not user_property:
        return Context()
    try:
        return extract(user_property, Context(), _getter)
    except Exception:
        _logger.exception("the propagator failed; the message counts as one without a context")
        return Context()


def passed_on(span: Span, context: Context | None = None) -> Span:
    """Without an SDK, a span that passes on the context of its parent, as tracers of newer releases of the API do.

    Args:
        span: What the tracer has started.
        context: Where its parent is; the current one if None.
    """
    if span.get_span_context().is_valid:
        return span
    return NonRecordingSpan(get_current_span(context).get_span_context())


def has_trace_context(user_property: UserProperties | None) -> bool:
    """Tells whether a message carries a usable trace context.

    Args:
        user_property: The message's ``properties.UserProperty``; None counts as empty.

    Returns:
        True for exactly one valid ``traceparent`` (or whatever the configured propagator takes instead of it).
    """
    return get_current_span(user_properties_to_context(user_property)).get_span_context().is_valid


def missing_context_reason(user_property: UserProperties | None) -> Literal["absent", "invalid", "duplicate"]:
    """Tells why a message has no usable trace context; meaningful where :func:`has_trace_context` is False.

    Args:
        user_property: The message's ``properties.UserProperty``; None counts as empty.
    """
    count = sum(name == _TRACEPARENT for name, _ in user_property or [])
    return "absent" if count == 0 else "invalid" if count == 1 else "duplicate"
