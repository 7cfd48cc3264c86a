"""Stacks for the tests."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import Stack


@pytest.fixture(scope="session")
def new_stack() -> Iterator[Callable[..., Stack]]:
    """Makes stacks, and ends them after the tests."""
    stacks: list[Stack] = []

    def make(**values: str) -> Stack:
        stack = Stack(Path(tempfile.mkdtemp(prefix="mqtt-tracing-test-")), **values)
        stacks.append(stack)
        return stack

    yield make
    for stack in stacks:
        stack.runtime.down()
        shutil.rmtree(stack.settings.run_dir)


@pytest.fixture(scope="session")
def stack(new_stack: Callable[..., Stack]) -> Stack:
    """A running stack that all tests share, who leave it as it was."""
    stack = new_stack()
    stack.up()
    return stack
