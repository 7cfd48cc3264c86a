"""Runs the benchmarks and writes the report: ``python -m benchmarks [SUBJECT ...]``; without a subject, all of them."""

import argparse
import importlib
import signal
import sys
import time

from benchmarks import plot, report

SUBJECTS = ("library", "consumer", "comparison", "latency", "growth", "memory", "connections")


def main() -> None:
    """Measures the given subjects; earlier results of the others stay in the report."""
    parser = argparse.ArgumentParser(prog="benchmarks", description="Measures the stack against its limits.")
    parser.add_argument("subject", nargs="*", help=f"any of {', '.join(SUBJECTS)}, or report; all by default")
    wanted: list[str] = parser.parse_args().subject or list(SUBJECTS)
    if unknown := set(wanted) - {*SUBJECTS, "report"}:
        parser.error(f"ONLY is {' '.join(sorted(unknown))}; it may be any of {', '.join(SUBJECTS)}, or report")
    # On SIGTERM it ends its stacks before it exits.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    modules = {subject: importlib.import_module(f"benchmarks.{subject}") for subject in SUBJECTS}
    for subject in SUBJECTS:
        if subject in wanted:
            started = time.monotonic()
            result = modules[subject].benchmark()
            report.keep(subject, result, time.monotonic() - started)
            sys.stdout.write(f"{subject}: {time.monotonic() - started:.0f} s\n")
    stored = report.load()
    (report.HERE / "results.md").write_text(
        report.markdown(stored, {subject: module.__doc__ or "" for subject, module in modules.items()})
    )
    plot.draw(stored, report.HERE / "results.png")
    sys.stdout.write(f"wrote {report.HERE.name}/results.md\n")


if __name__ == "__main__":
    main()
