# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""What this package instruments."""

_instruments = ("paho-mqtt >= 2.0.0, < 3.0.0",)

_supports_metrics = True

_semconv_status = "development"
