import json
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.result import Result, Table, Target, alternating, median_ratio, percentile

RESULT = Result(
    [Table("Rates", ["", "readings/s"], [["tracing on", 1234.5], ["tracing off", 12.34]])],
    [Target("on ÷ off", 0.85, 0.8), Target("off ÷ limit", 0.9, 0.9)],
)


@pytest.mark.parametrize(("value", "text"), [("a", "a"), (1234.5, "1,234"), (12.34, "12.3"), (0.5, "0.50"), (0, "0")])
def test_a_figure_has_the_digits_that_say_something(value: report.Cell, text: str) -> None:
    assert report.cell(value) == text


def test_ratios_are_taken_within_a_round() -> None:
    assert median_ratio([10, 40, 5], [20, 40, 20]) == 0.5


def test_variants_take_turns() -> None:
    order: list[str] = []
    found = alternating({name: lambda name=name: order.append(name) or len(order) for name in "ab"}, 2)
    assert order == ["a", "b", "a", "b"]
    assert found == {"a": [1, 3], "b": [2, 4]}


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, percent) for percent in (50, 95, 99, 100)] == [50, 95, 99, 100]
    assert percentile([7.0], 99) == 7.0


def test_the_report_says_what_was_met_and_what_not(tmp_path: Path) -> None:
    store = tmp_path / "results.json"
    report.keep("consumer", RESULT, 3.4, store)
    text = report.markdown(report.load(store), {"library": "Not measured.", "consumer": "Summary.\n\nDetails."})
    assert "| on ÷ off | ≥ 0.85 | 0.80 | missed by 0.05 |" in text
    assert "| off ÷ limit | ≥ 0.9 | 0.90 | met |" in text
    assert "| tracing on | 1,234 |" in text
    assert "## Library" not in text
    assert str(Path.home()) not in text


def test_one_subject_measured_again_leaves_the_others(tmp_path: Path) -> None:
    store = tmp_path / "results.json"
    report.keep("consumer", RESULT, 1, store)
    report.keep("library", Result([]), 1, store)
    report.keep("library", Result([RESULT.tables[0]]), 1, store)
    kept = json.loads(store.read_text())
    assert list(kept) == ["consumer", "library"]
    assert len(kept["library"]["tables"]) == 1
