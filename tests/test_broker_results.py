"""The results in docs/brokers.md were measured with the current brokers."""

import ast
import json
from pathlib import Path

import pytest

from brokers.launcher import BROKERS
from brokers.results import RESULTS, Results, manifest, of_report
from stack.settings import ROOT

KNOWN: Results = json.loads(RESULTS.read_text())
TESTS = {
    node.name.removeprefix("test_")
    for node in ast.walk(ast.parse((ROOT / "tests" / "test_brokers.py").read_text()))
    if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
}


@pytest.mark.parametrize("name", BROKERS)
def test_the_results_are_of_the_broker_that_is_launched_now(name: str) -> None:
    assert KNOWN[name]["manifest"] == manifest(BROKERS[name]), "run `make test-brokers`, and then `make docs`"


@pytest.mark.parametrize("name", BROKERS)
def test_the_results_are_of_all_that_is_asked_of_a_broker(name: str) -> None:
    assert KNOWN[name].keys() - {"manifest"} == TESTS, "run `make test-brokers`, and then `make docs`"


REPORT = """
<testsuites><testsuite>
<testcase name="test_one[mochi]"><properties><property name="version" value="2"/></properties></testcase>
<testcase name="test_two[mochi-30]"/>
<testcase name="test_two[mochi-90]"><failure/></testcase>
<testcase name="test_one[mosquitto-2.1]"><error/></testcase>
<testcase name="test_one[rumqttd]"><skipped/></testcase>
</testsuite></testsuites>
"""


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    assert of_report(report) == {
        "mochi": {"one": {"outcome": "passed", "version": "2"}, "two": {"outcome": "failed"}},
        "mosquitto-2.1": {"one": {"outcome": "failed"}},
    }
