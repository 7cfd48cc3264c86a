# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""Version of this package."""

__version__ = "0.1.0+unpublished"
