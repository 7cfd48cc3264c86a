# SPDX-License-Identifier: Apache-2.0
"""Calling what the user hooked in."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import ParamSpec

_logger = logging.getLogger(__name__)
_P = ParamSpec("_P")


def call_hook(hook: Callable[_P, object], *args: _P.args, **kwargs: _P.kwargs) -> None:
    """Calls a hook; its exceptions are logged, since no message may be lost for its telemetry."""
    try:
        hook(*args, **kwargs)
    except Exception:
        _logger.exception("%r failed", hook)
