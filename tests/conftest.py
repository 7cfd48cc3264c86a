"""Stacks for the tests."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness import Stack


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Lets one worker run the tests that share a fixture of their file, one after the other; stacks come first."""
    folder = Path(__file__).parent
    for item in items:
        if isinstance(item, pytest.Function) and item.path.is_relative_to(folder) and (shared := _shared(item)):
            item.add_marker(pytest.mark.xdist_group(f"{item.path.stem}-{shared}"))
    items.sort(key=lambda item: not item.path.is_relative_to(folder))


def _shared(item: pytest.Function) -> str:
    """The fixtures of its file that a test shares with others."""
    definitions = item._fixtureinfo.name2fixturedefs  # there is no public way
    last = {name: found[-1] for name, found in definitions.items() if found}
    return "-".join(
        sorted(name for name, found in last.items() if found.scope == "module" and found.baseid.endswith(".py"))
    )


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


@pytest.fixture
def new_stack() -> Iterator[Callable[..., Stack]]:
    """Makes stacks, and ends them after the test."""
    with stacks() as make:
        yield make


@pytest.fixture(scope="module")
def new_shared_stack() -> Iterator[Callable[..., Stack]]:
    """Makes stacks that the tests of a file share, and ends them after the last of these."""
    with stacks() as make:
        yield make


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """A running stack that all tests share, who leave it as it was."""
    with stacks() as make:
        stack = make()
        stack.up()
        yield stack
