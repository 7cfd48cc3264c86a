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

# By these a make that a test runs would take itself for a part of the one that runs the tests.
for of_make in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
    os.environ.pop(of_make, None)

# Says where they are.
FOLDER = "MQTT_TRACING_TEST_STACKS"
STACKS = {"stack", "new_stack", "new_shared_stack"}

# Files whose tests one worker runs: for each worker that has a test with the fixture ``stack``, one runs all the time.
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
# Half a minute of it is waiting, with each broker: two workers have one each.
BROKERS = "tests/test_brokers.py"


class Scheduling(LoadScopeScheduling):
    """One worker runs the tests of a file, in their order, if they share a fixture; those with a stack each are spread.

    This is what marks of ``xdist_group`` are for, which pytest-xdist 3.8.0 does not see with pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if file == BROKERS and (broker := re.search(r"\[(.+?)(-\d+)?\]$", nodeid)):
            return f"{file} with {broker[1]}"
        spread = file.startswith("tests/") and file not in WITH and not shares_fixtures(file)
        return nodeid if spread else WITH.get(file, file)


@cache
def shares_fixtures(file: str) -> bool:
    """Whether a file of tests has a fixture for all of them."""
    return 'scope="module"' in (ROOT / file).read_text()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Says which tests a worker gets together."""
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what needs a stack; such tests come first, since they take longest."""
    for item in items:
        if isinstance(item, pytest.Function) and STACKS & set(item.fixturenames):
            item.add_marker(pytest.mark.stack)
    items.sort(key=lambda item: item.get_closest_marker("stack") is None)


# However slow a machine with much else to do is, that is no fault of a parser.
settings.register_profile("busy", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_configure(config: pytest.Config) -> None:
    """Makes the folder that the stacks of all workers are in."""
    if not hasattr(config, "workerinput"):
        os.environ[FOLDER] = tempfile.mkdtemp(prefix="mqtt-tracing-test-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Ends the stacks that a worker has left, as it does after Ctrl-C."""
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
    """A running stack that all tests share, who leave it as it was."""
    with stacks() as make:
        stack = make()
        stack.up()
        yield stack
