"""Stacks for the tests."""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from harness import Stack
from stack.settings import ROOT
from workshop import OF_MAKE

# With these set, a make that a test runs would take itself for a sub-make of the one that runs the tests.
for of_make in OF_MAKE:
    os.environ.pop(of_make, None)

# The environment variable with the folder of the stacks.
FOLDER = "MQTT_TRACING_TEST_STACKS"
STACKS = {"stack", "new_stack", "new_shared_stack"}

# Files whose tests share a worker: each worker that has a test with the fixture ``stack`` keeps a stack running.
WITH = {
    # Its tests write to workshop/mine as well.
    "tests/test_every_command.py": "tests/test_workshop.py",
    "tests/test_end_to_end.py": "stack of one worker",
    "tests/test_show_traces.py": "stack of one worker",
    "tests/test_asyncapi.py": "stack of one worker",
    "tests/test_interop.py": "stack of one worker",
    "tests/test_local_scout.py": "stack of another worker",
    "tests/test_commands.py": "stack of another worker",
    "tests/test_new_services.py": "stack of another worker",
    "tests/test_strangers.py": "stack of another worker",
}
# It waits half a minute with each broker, so each broker gets a worker of its own.
BROKERS = "tests/test_brokers.py"


class Scheduling(LoadScopeScheduling):
    """Runs tests of a file that share a fixture in order on one worker; spreads tests that each have a stack.

    ``xdist_group`` marks are meant for this, but pytest-xdist 3.8.0 does not see them with pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if file == BROKERS and (broker := re.search(r"\[(.+?)(-\d+)?\]$", nodeid)):
            return f"{file} with {broker[1]}"
        spread = file.startswith("tests/") and file not in WITH and not shares_fixtures(file)
        return nodeid if spread else WITH.get(file, file)


@cache
def shares_fixtures(file: str) -> bool:
    """Tells whether a file has a fixture that all its tests share."""
    return 'scope="module"' in (ROOT / file).read_text()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Decides which tests a worker gets together."""
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that need a stack, and runs them first, since they take longest."""
    for item in items:
        if isinstance(item, pytest.Function) and STACKS & set(item.fixturenames):
            item.add_marker(pytest.mark.stack)
    items.sort(key=lambda item: item.get_closest_marker("stack") is None)


# If a busy machine is slow, that is not the parser's fault.
settings.register_profile("busy", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_configure(config: pytest.Config) -> None:
    """Creates the folder for the stacks of all workers."""
    if not hasattr(config, "workerinput"):
        os.environ[FOLDER] = tempfile.mkdtemp(prefix="mqtt-tracing-test-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stops the stacks that a worker left running, as happens after Ctrl-C."""
    if not hasattr(config, "workerinput"):
        folder = Path(os.environ.pop(FOLDER))
        for left in folder.iterdir():
            Stack(left).runtime.down()
        shutil.rmtree(folder)


@contextmanager
def stacks() -> Iterator[Callable[..., Stack]]:
    """Makes stacks, and ends them afterwards."""
    made: list[Stack] = []

    def make(kind: type[Stack] = Stack, **values: str) -> Stack:
        made.append(kind(Path(tempfile.mkdtemp(dir=os.environ[FOLDER])), **values))
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
    """A running stack that all tests share; each leaves it as it was."""
    with stacks() as make:
        stack = make()
        stack.up()
        yield stack
