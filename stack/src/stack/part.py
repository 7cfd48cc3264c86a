"""One part of the stack, and its health check."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import requests
from pydantic_settings import BaseSettings

HEARTBEAT_SECONDS = 10.0


@dataclass(frozen=True)
class Part:
    """One process of the stack in the local runtime."""

    name: str
    command: list[str]
    healthy: Callable[[], bool]
    # Each wave starts when the previous one is healthy, so that no part logs errors about one that is not up yet.
    wave: int
    address: str = ""
    # The variables that it reads; a traced service reads OTEL_* as well.
    reads: frozenset[str] = frozenset()
    # The class that checks its variables, if the part is one of our programs.
    settings: type[BaseSettings] | None = None
    # The first override this machine's environment and .env; the second are overridden by them.
    environment: dict[str, str] = field(default_factory=dict)
    defaults: dict[str, str] = field(default_factory=dict)


def answers(url: str) -> Callable[[], bool]:
    """Makes a check that succeeds while the URL answers 200."""

    def check() -> bool:
        try:
            return requests.get(url, timeout=2).ok
        except requests.RequestException:
            return False

    return check


def beats(heartbeat: Path) -> Callable[[], bool]:
    """Makes a check that succeeds while the service touches its file."""

    def check() -> bool:
        try:
            return time.time() - heartbeat.stat().st_mtime < HEARTBEAT_SECONDS
        except FileNotFoundError:
            return False

    return check


def local_url(port: int, path: str = "") -> str:
    """A URL on this machine."""
    return f"http://127.0.0.1:{port}{path}"
