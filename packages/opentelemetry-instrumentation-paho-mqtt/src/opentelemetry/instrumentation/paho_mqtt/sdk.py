# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""Tells whether there is an SDK. It may be set up at any time, even after the instrumentation."""

from __future__ import annotations

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

# The modules of the API's own providers, which do nothing, or delegate to an SDK later.
_API = ("opentelemetry.trace", "opentelemetry.metrics")


def is_sdk(provider: TracerProvider | MeterProvider) -> bool:
    """Whether a provider belongs to an SDK, and not to the API."""
    return not type(provider).__module__.startswith(_API)
