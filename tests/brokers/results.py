"""Records what each broker is and does, from a run of test_brokers.py; docs/brokers.md is made from the record.

``python -m brokers.results dist/brokers.xml``; the argument is pytest's report in JUnit's format.
"""

import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

from brokers.launcher import BROKERS, Broker

RESULTS = Path(__file__).with_name("results.json")
Results = dict[str, dict[str, dict[str, str]]]


def of_report(report: Path) -> Results:
    """The results of a run.

    Returns:
        By broker and test: ``outcome``, and what the test recorded. If a test ran several times, the worst outcome.
    """
    found: Results = {}
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314 (pytest wrote it)
        name = re.fullmatch(r"test_(\w+)\[(.+)\]", case.get("name", ""))
        if name is None or case.find("skipped") is not None:
            continue
        test, broker = name[1], re.sub(r"-\d+$|^\d+-", "", name[2])
        failed = case.find("failure") is not None or case.find("error") is not None
        recorded = {each.get("name", ""): each.get("value", "") for each in case.iter("property")}
        before = found.setdefault(broker, {}).get(test, {"outcome": "passed"})
        found[broker][test] = {**before, **recorded, **({"outcome": "failed"} if failed else {})}
    return found


def manifest(broker: Broker) -> dict[str, str]:
    """Identifies the broker that the results are for; they are stale if this changes."""
    return {"title": broker.title, "digest": broker.digest}


def main() -> None:
    """Adds the results of a run; results that the run did not measure stay."""
    known: Results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for broker, tests in of_report(Path(sys.argv[1])).items():
        known[broker] = {**known.get(broker, {}), **tests, "manifest": manifest(BROKERS[broker])}
    RESULTS.write_text(json.dumps({name: known[name] for name in BROKERS if name in known}, indent=2) + "\n")


if __name__ == "__main__":
    main()
