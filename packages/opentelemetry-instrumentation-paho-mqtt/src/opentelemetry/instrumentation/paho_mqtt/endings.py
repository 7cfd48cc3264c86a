# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""Where spans end: only where the thread holds none of paho's locks, for an SDK's processor may take its time.

paho calls back while it holds its locks: there an ending is noted, and comes about when the thread has left paho. The
garbage collector runs finalizers anywhere, also inside the SDK's own locks: what they note comes about at the next such
place of any thread.
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

# Counts the forks: a span belongs to the process that opened it.
_process = 0


class _Thread(threading.local):
    """What a thread has noted.

    Attributes:
        held: How many methods of paho's, which may hold its locks, the thread is in: to be counted around each.
    """

    def __init__(self) -> None:
        self.held = 0
        self.noted: _Endings = deque()
        # It belongs to a thread that had this identity and has ended.
        _of_finalizers.extend(_of_threads.pop(threading.get_ident(), ()))
        _of_threads[threading.get_ident()] = self.noted


thread = _Thread()


def process() -> int:
    """A number for this process, which a child does not share."""
    return _process


def note(ending: Callable[[], object]) -> None:
    """Notes an ending of this thread."""
    thread.noted.append(ending)


def note_from_finalizer(ending: Callable[[], object]) -> None:
    """Notes an ending in a finalizer, where nothing else may be done."""
    _of_finalizers.append(ending)


def end_noted() -> None:
    """Has what this thread and finalizers have noted come about, unless the thread is inside paho."""
    if (thread.noted or _of_finalizers) and not thread.held:
        _end_all(thread.noted)
        _end_all(_of_finalizers)


def end_noted_by_all() -> None:
    """Has what any thread has noted come about, unless this one is inside paho."""
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
