# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""Whether there is an SDK. It may be set up at any time, also after the instrumentation."""

from __future__ import annotations

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

# The modules of the API's own providers, which do nothing, or nothing yet.
_API = ("opentelemetry.trace", "opentelemetry.metrics")


def is_sdk(provider: TracerProvider | MeterProvider) -> bool:
    """Whether a provider is an SDK's, and not one of the API's own."""
    return not type(provider).__module__.startswith(_API)
