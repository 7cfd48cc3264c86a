"""The capacity model: what it says of a fleet, and how far it is from what was measured with the stack."""

import subprocess
import sys

import pytest

from benchmarks.capacity import Fleet, limits, needs
from benchmarks.predictions import FLEETS, predictions
from stack.settings import ROOT

COMMAND = [sys.executable, "-m", "benchmarks.capacity"]
# docs/scale.md says why.
BEYOND_20_PERCENT = {
    "1 devices of a producer: CPU µs per reading",
    "64 KiB as payload: readings/s",
    *(
        f"{count} consumers, 300 readings/s: CPU µs per reading, {part}"
        for count in (1, 2, 5)
        for part in ("consumers", "echo", "collector")
    ),
}


def test_the_model_predicts_what_was_measured() -> None:
    deviations = {name: predicted / measured - 1 for name, predicted, measured in predictions()}
    print(*(f"{deviation:+.0%} {name}" for name, deviation in deviations.items()), sep="\n")
    assert {name for name, deviation in deviations.items() if abs(deviation) > 0.2} == BEYOND_20_PERCENT


def test_a_larger_fleet_needs_more() -> None:
    rates = [float(needs(fleet)["readings a second"].replace(",", "")) for fleet in FLEETS]
    assert rates == [17, 167, 1667, 16667]
    consumers = [int(needs(fleet)["consumers"]) for fleet in FLEETS]
    assert consumers == sorted(consumers)
    assert consumers[0] == 1 < consumers[-1]


def test_sampling_at_the_tail_needs_collectors_and_a_layer_in_front() -> None:
    head, tail = (needs(Fleet(1_000_000, sampling=0.1, tail=tail)) for tail in (False, True))
    assert " in front" in tail["Collectors"]
    assert " in front" not in head["Collectors"]
    # What is kept, and so what it costs, is the same.
    assert head["spans a month"] == tail["spans a month"]


def test_what_breaks_first_is_at_the_front() -> None:
    used = [limit.used for limit in limits(Fleet(1000))]
    assert used == sorted(used, reverse=True)


def test_the_command_says_what_a_fleet_needs() -> None:
    command = [*COMMAND, "--devices", "100000", "--interval", "60", "--payload", "180", "--sampling", "0.1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for name, value in needs(Fleet(100_000)).items():
        assert f"{name} " in done.stdout
        assert f" {value}\n" in done.stdout


@pytest.mark.parametrize(("option", "value"), [("--devices", "0"), ("--interval", "-1"), ("--sampling", "2")])
def test_a_fleet_that_cannot_be_is_refused_in_one_line(option: str, value: str) -> None:
    command = [*COMMAND, *([] if option == "--devices" else ["--devices", "10"]), option, value]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(" must be above 0, and sampling 0 to 1")
