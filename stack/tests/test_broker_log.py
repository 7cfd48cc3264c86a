"""The MQTT version of each client, from Mosquitto's log."""

from datetime import UTC, datetime, timedelta

import pytest

from stack.doctor.broker import Heard, lately_connected

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def line(text: str, ago: timedelta = timedelta(seconds=10)) -> str:
    return f"{NOW - ago:%Y-%m-%dT%H:%M:%S%z}: {text}\n"


def connected(name: str, number: int, user: str = "producer", ago: timedelta = timedelta(seconds=10)) -> str:
    return line(f"New client connected from 127.0.0.1:1234 as {name} (p{number}, c1, k60, u'{user}').", ago)


@pytest.mark.parametrize(("number", "version"), [(1, "3.1"), (2, "3.1.1"), (5, "5"), (9, "(9)")])
def test_the_version_is_in_the_words_of_mqtt(number: int, version: str) -> None:
    (client,) = lately_connected(connected("a client (it has a space)", number), NOW)
    assert (client.client_id, client.user, client.protocol) == ("a client (it has a space)", "producer", version)


@pytest.mark.parametrize(
    "end",
    [
        "Client legacy disconnected.",
        "Client legacy [127.0.0.1:1234] disconnected.",
        "Client legacy closed its connection.",
        "Client legacy has exceeded timeout, disconnecting.",
        "Client legacy disconnected, not authorised.",
        "mosquitto version 2.0.11 starting",
    ],
)
def test_who_left_long_ago_is_not_told(end: str) -> None:
    long_ago = timedelta(hours=1)
    assert lately_connected(connected("legacy", 2, ago=long_ago) + line(end, long_ago), NOW) == []
    assert lately_connected(connected("legacy", 2, ago=long_ago), NOW)
    assert lately_connected(connected("legacy", 2) + line(end), NOW)
    assert lately_connected(connected("legacy", 2, ago=long_ago) + line(end, long_ago) + connected("legacy", 5), NOW)


def test_the_broker_may_be_in_another_time_zone() -> None:
    log = "2026-11-21T13:58:00+0200: New client connected from 127.0.0.1:1 as a (p2, c1, k60, u'x').\n"
    log += "2026-11-21T13:58:00+0200: Client a disconnected.\n"
    assert len(lately_connected(log, NOW)) == 1


@pytest.mark.parametrize(
    ("user_properties", "payload", "context"),
    [
        ([("traceparent", TRACEPARENT)], {}, "properties"),
        ([("traceparent", TRACEPARENT)] * 2, {}, "properties"),
        ([], {"traceparent": TRACEPARENT}, "payload"),
        ([], {"traceparent": 1}, "absent"),
        ([], {}, "absent"),
        ([("traceparent", "nonsense")], {}, "invalid"),
        ([("traceparent", TRACEPARENT), ("traceparent", "nonsense")], {}, "duplicate"),
        ([("Traceparent", TRACEPARENT)], {}, "wrong_case"),
        ([("Traceparent", TRACEPARENT)], {"traceparent": TRACEPARENT}, "payload"),
    ],
)
def test_where_the_context_of_a_reading_is(
    user_properties: list[tuple[str, str]], payload: dict[str, object], context: str
) -> None:
    assert Heard("sensors/a/reading", 1, user_properties, payload, 0.0).context == context


@pytest.mark.parametrize("value", ["", "00-" + "0" * 32 + "-b7ad6b7169203331-01", TRACEPARENT.upper(), None, 7])
def test_what_is_no_traceparent(value: object) -> None:
    assert Heard("sensors/a/reading", 1, [], {"traceparent": value}, 0.0).context == "absent"
