# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""Ends spans only where the thread holds none of paho's locks, because an SDK's processor may be slow.

paho calls back while it holds its locks. There an ending is only noted; it is carried out when the thread has left
paho. The garbage collector runs finalizers anywhere, even inside the SDK's own locks. The endings that they note are
carried out when any thread reaches a safe place.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable

# Appending and popping need no lock.
_Endings = deque[Callable[[], object]]

_of_finalizers: _Endings = deque()
_of_threads: dict[int, _Endings] = {}

# The number of forks, because a span belongs to the process that opened it.
_process = 0


class _Thread(threading.local):
    """The endings that a thread has noted.

    Attributes:
        held: How many of paho's methods that may hold its locks the thread is inside; the wrappers count it.
    """

    def __init__(self) -> None:
        self.held = 0
        self.noted: _Endings = deque()
        # Endings of an earlier thread that had the same identity.
        _of_finalizers.extend(_of_threads.pop(threading.get_ident(), ()))
        _of_threads[threading.get_ident()] = self.noted


thread = _Thread()


def process() -> int:
    """A number for this process, which differs in a forked child."""
    return _process


def note(ending: Callable[[], object]) -> None:
    """Notes an ending in this thread."""
    thread.noted.append(ending)


def note_from_finalizer(ending: Callable[[], object]) -> None:
    """Notes an ending in a finalizer, where nothing else is safe."""
    _of_finalizers.append(ending)


def end_noted() -> None:
    """Carries out the endings that this thread and finalizers have noted, unless the thread is inside paho."""
    if (thread.noted or _of_finalizers) and not thread.held:
        _end_all(thread.noted)
        _end_all(_of_finalizers)


def end_noted_by_all() -> None:
    """Carries out the endings that all threads have noted, unless this thread is inside paho."""
    end_noted()
    if not thread.held:
        for noted in list(_of_threads.values()):
            _end_all(noted)


def _end_all(noted: _Endings) -> None:
    while noted:
        try:
            ending = noted.popleft()
        except IndexError:  # another thread was quicker
            return
        ending()


def _forked() -> None:
    global _process
    _process += 1
    _of_finalizers.clear()
    for noted in _of_threads.values():
        noted.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
