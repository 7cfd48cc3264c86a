# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""Strings that any exporter can encode."""

from __future__ import annotations


def encodable(value: str) -> str:
    """Replaces lone surrogates, which UTF-8 cannot encode: with one of them an exporter loses its whole batch."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode()
