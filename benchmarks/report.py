"""Writes ``results.md`` and ``results.png`` from ``results.json``, where each benchmark leaves what it found."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from benchmarks.result import Cell, Result, Table, Target

HERE = Path(__file__).parent
STORE = HERE / "results.json"


def keep(subject: str, result: Result, seconds: float, store: Path = STORE) -> None:
    """Replaces the earlier results of one benchmark."""
    stored: dict[str, Any] = json.loads(store.read_text()) if store.exists() else {}
    day = datetime.now(UTC).date().isoformat()
    stored[subject] = {"day": day, "seconds": round(seconds), "machine": describe(), **asdict(result)}
    store.write_text(json.dumps(stored, indent=1, ensure_ascii=False) + "\n")


def load(store: Path = STORE) -> dict[str, dict[str, Any]]:
    """The stored results, by subject."""
    return json.loads(store.read_text())


def markdown(stored: Mapping[str, Mapping[str, Any]], explanations: Mapping[str, str]) -> str:
    """The whole report, in the order of the explanations.

    Args:
        stored: The stored results, by subject.
        explanations: What each subject measures and how, from the docstring of its module.
    """
    found = [(subject, stored[subject]) for subject in explanations if subject in stored]
    lines = ["# What it costs and what it can do", ""]
    lines += ["Written by `make bench`; [README.md](README.md) says how to run one part again.", ""]
    lines += ["![The main figures](results.png)", "", "## Targets", ""]
    targets = [Target(**target) for _, entry in found for target in entry["targets"]]
    rows = [[target.what, f"≥ {target.at_least:g}", target.measured, target.verdict] for target in targets]
    lines += [*_table(["figure", "target", "measured", ""], rows), ""]
    for subject, entry in found:
        summary, _, details = explanations[subject].partition("\n\n")
        lines += [f"## {subject.capitalize()}", "", summary.strip(), "", details.strip(), ""]
        for table in (Table(**table) for table in entry["tables"]):
            lines += [f"**{table.title}**", "", *_table(table.columns, table.rows), ""]
            lines += [table.note, ""] if table.note else []
        lines += [f"Measured {entry['day']}, in {entry['seconds']} s.", ""]
    lines += ["## Machine", ""]
    machines: dict[str, list[str]] = {}
    for subject, entry in found:
        text = ", ".join(f"{name} {value}" for name, value in entry["machine"].items())
        machines.setdefault(text, []).append(subject)
    lines += [f"- {', '.join(subjects)}: {text}" for text, subjects in machines.items()]
    return "\n".join(lines) + "\n"


def cell(value: Cell) -> str:
    """A figure with its significant digits."""
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _table(columns: Any, rows: Any) -> list[str]:
    alignment = ["---", *["---:" for _ in columns[1:]]]
    return [f"| {' | '.join(map(cell, row))} |" for row in [columns, alignment, *rows]]
