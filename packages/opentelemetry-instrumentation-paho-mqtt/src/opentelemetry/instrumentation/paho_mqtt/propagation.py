# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""Trace context in MQTT 5 user properties.

A user property is a pair of UTF-8 strings. A message may carry any number of them, even with equal names (MQTT 5.0,
3.3.2.3.7). The names and values are those of W3C Trace Context, in lower case. Carrying them in user properties is a
de-facto convention.
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
MissingContextReason = Literal["absent", "invalid", "duplicate", "wrong_case"]

# Fields that W3C allows to be split into several headers, which together form one list.
_LISTS = frozenset({"tracestate", "baggage"})


class _UserPropertyGetter(Getter[UserProperties]):
    def get(self, carrier: UserProperties, key: str) -> list[str] | None:
        # A loop, because it costs each message half as much as a comprehension.
        values: list[str] | None = None
        for name, value in carrier:
            if name == key:
                if values is None:
                    values = [encodable(value)]
                else:
                    values.append(encodable(value))
        if values is None or len(values) == 1:
            return values
        if key in _LISTS:
            return [",".join(values)]
        # Equal values count as one. Different values contradict each other, so none is used.
        return values[:1] if len(set(values)) == 1 else None

    def keys(self, carrier: UserProperties) -> list[str]:
        return [name for name, _ in carrier]


class _NotingGetter(_UserPropertyGetter):
    """Notes which fields the configured propagator asks for."""

    def __init__(self) -> None:
        self.fields: set[str] = set()

    def get(self, carrier: UserProperties, key: str) -> list[str] | None:
        self.fields.add(key)
        return super().get(carrier, key)


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


def added_fields(fields: UserProperties, set_by_caller: UserProperties) -> UserProperties:
    """The fields to write into a message: none if the caller wrote a trace context, else those it did not write."""
    if not set_by_caller:
        return fields
    names = {name for name, _ in set_by_caller}
    if any(name in names for name, _ in fields if name not in _LISTS) or has_trace_context(set_by_caller):
        return []
    return [(name, value) for name, value in fields if name not in names]


def user_properties_to_context(user_property: UserProperties | None) -> Context:
    """Reads the context that a message carries, with the globally configured propagator.

    Args:
        user_property: The message's ``properties.UserProperty``; None counts as empty.

    Returns:
        The remote context; an empty one if the message carries no usable context. Never the current context, so that a
        message without a context does not become a child of the current span.
    """
    return _extract(user_property, _getter) if user_property else Context()


def _extract(user_property: UserProperties, getter: _UserPropertyGetter) -> Context:
    try:
        return extract(user_property, Context(), getter)
    except Exception:
        _logger.exception("the propagator failed; the message counts as one without a context")
        return Context()


def passed_on(span: Span, context: Context | None = None) -> Span:
    """Without an SDK, returns a span that propagates the context of its parent, as newer releases of the API do.

    Args:
        span: The span that the tracer has started.
        context: The context that contains its parent; the current one if None.
    """
    if span.get_span_context().is_valid:
        return span
    return NonRecordingSpan(get_current_span(context).get_span_context())


def has_trace_context(user_property: UserProperties | None) -> bool:
    """Tells whether a message carries a usable trace context.

    Args:
        user_property: The message's ``properties.UserProperty``; None counts as empty.

    Returns:
        True for one valid ``traceparent`` (or the field that the configured propagator reads instead). It may occur
        several times if all values are equal.
    """
    return get_current_span(user_properties_to_context(user_property)).get_span_context().is_valid


def missing_context_reason(user_property: UserProperties | None) -> MissingContextReason:
    """Tells why a message has no usable trace context; only meaningful if :func:`has_trace_context` is False.

    Args:
        user_property: The message's ``properties.UserProperty``; None counts as empty.

    Returns:
        For the fields that the configured propagator reads: "duplicate" if one occurs with several values, "invalid" if
        one occurs otherwise, "wrong_case" if one occurs with a name in another case, which is another name in MQTT, and
        "absent" if none occurs.
    """
    user_property = user_property or ()
    getter = _NotingGetter()
    _extract(user_property, getter)
    fields = getter.fields - _LISTS
    found = {(name, value) for name, value in user_property if name in fields}
    if found:
        return "invalid" if len(found) == len({name for name, _ in found}) else "duplicate"
    spellings = {name.lower() for name in fields}
    return "wrong_case" if any(name.lower() in spellings for name, _ in user_property) else "absent"
