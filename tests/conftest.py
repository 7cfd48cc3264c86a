"""Stacks for the tests."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness import Stack


@contextmanager
def stacks() -> Iterator[Callable[..., Stack]]:
    """Makes stacks, and ends them afterwards."""
    made: list[Stack] = []

    def make(**values: str) -> Stack:
        made.append(Stack(Path(tempfile.mkdtemp(prefix="mqtt-tracing-test-")), **values))
        return made[-1]

    yield make
    for stack in made:
        stack.runtime.down()
        shutil.rmtree(stack.settings.run_dir)


@pytest.fixture(scope="module")
def new_stack() -> Iterator[Callable[..., Stack]]:
    """Makes stacks, and ends them after the tests of a file: the next one has the machine to itself."""
    with stacks() as make:
        yield make


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """A running stack that all tests share, who leave it as it was."""
    with stacks() as make:
        stack = make()
        stack.up()
        yield stack
