# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""Failures: those of messages are recorded on their spans, those of telemetry are only logged."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from opentelemetry.instrumentation.paho_mqtt.text import encodable
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.exception_attributes import EXCEPTION_MESSAGE, EXCEPTION_STACKTRACE
from opentelemetry.trace import Span, Status, StatusCode

_logger = logging.getLogger(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")


def never_raises(function: Callable[_P, _T]) -> Callable[_P, _T | None]:
    """Logs the exceptions of a function and returns None instead, so that telemetry never costs a message."""

    @wraps(function)
    def guarded(*args: _P.args, **kwargs: _P.kwargs) -> _T | None:
        try:
            return function(*args, **kwargs)
        except Exception:
            _logger.exception("%s failed; the message goes on without", function.__name__)
            return None

    return guarded


def call_hook(hook: Callable[_P, object], *args: _P.args, **kwargs: _P.kwargs) -> None:
    """Calls a hook of the user, and logs its exceptions."""
    try:
        hook(*args, **kwargs)
    except Exception:
        _logger.exception("%r failed", hook)


def set_error(span: Span, error_type: str, description: str) -> None:
    """Marks a span as failed, as in the conventions for `recording errors`_.

    .. _recording errors: https://opentelemetry.io/docs/specs/semconv/general/recording-errors/
    """
    span.set_attribute(ERROR_TYPE, error_type)
    span.set_status(Status(StatusCode.ERROR, encodable(description)))


@never_raises
def record_exception(span: Span, error: BaseException) -> None:
    """Marks a span as failed by an exception, whose message may contain any payload."""
    set_error(span, error_type(error), f"{type(error).__name__}: {error}")
    stacktrace = "".join(traceback.format_exception(error))
    span.record_exception(
        error, {EXCEPTION_MESSAGE: encodable(str(error)), EXCEPTION_STACKTRACE: encodable(stacktrace)}
    )


def error_type(error: BaseException) -> str:
    """The ``error.type`` of an exception."""
    return type(error).__qualname__
