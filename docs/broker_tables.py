"""Puts the tables of measured brokers into brokers.md: what ``make test-brokers`` has written down."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "tests" / "brokers" / "results.json"
Test = Mapping[str, str]
# A column's head, and what the test of what a broker says has recorded.
ANNOUNCED = {
    "version": "version",
    "Receive Maximum": "ReceiveMaximum",
    "Maximum QoS": "MaximumQoS",
    "Maximum Packet Size": "MaximumPacketSize",
    "shared subscriptions": "SharedSubscriptionAvailable",
    "retained messages": "RetainAvailable",
    "keeps a session for": "SessionExpiryInterval",
    "PUBACK, nobody subscribed": "Nobody",
}
YES_OR_NO = {"SharedSubscriptionAvailable", "RetainAvailable"}
# A column's head, and the test.
DOES = {
    "one trace": "one_reading_is_one_connected_trace",
    "properties unchanged": "user_properties_arrive_as_they_were_sent",
    "`kill -9` with 200 queued": "a_consumer_that_is_killed_with_200_queued_loses_none",
    "a share of two, and `--leave`": "two_consumers_share_and_one_leaves",
    "a partition changes hands": "a_partition_keeps_its_order_when_it_changes_hands",
    "a backlog of 1,000": "a_backlog_of_1000_goes_through_the_brokers_receive_maximum",
    "session lost": "a_session_that_the_broker_has_lost_is_said",
    "idle for 90 s": "who_has_nothing_to_do_is_healthy",
}

# What a cell says where a broker lacks something, and the service has said so.
LACKS = {
    "share": "no share: the consumer says so",
    "leave": "a share; `--leave` says that it cannot",
    "order": "nothing is lost, but not in order",
}


def announced() -> None:
    """Prints what each broker says of itself in its CONNACK."""
    _print(ANNOUNCED, lambda tests, name: _announced(tests["a_broker_says_what_it_has"], name))


def does() -> None:
    """Prints what our services do with each broker."""
    _print(DOES, lambda tests, name: _outcome(tests.get(name, {})))


def _announced(test: Test, name: str) -> str:
    value = test.get(name, "None")
    if name in YES_OR_NO:
        return "yes" if value == "1" else "no"
    return {"None": "any" if name == "MaximumPacketSize" else "not said"}.get(value, value)


def _outcome(test: Test) -> str:
    if test.get("outcome") != "passed":
        return "**fails**" if test else "not run"
    return LACKS.get(test.get("lacks", ""), "yes")


def _print(columns: Mapping[str, str], cell: Callable[[Mapping[str, Test], str], str]) -> None:
    results: dict[str, dict[str, dict[str, str]]] = json.loads(RESULTS.read_text())
    lines = [_row(["", *columns]), _row(["---"] * (len(columns) + 1))]
    for tests in results.values():
        lines.append(_row([tests["manifest"]["title"], *(cell(tests, name) for name in columns.values())]))
    sys.modules["cog"].out("\n" + "\n".join(lines) + "\n\n")


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
