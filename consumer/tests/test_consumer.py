import json
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.echo import made_at, message_id
from consumer.settings import Settings
from mqtt_delivery import Message
from service import load_settings

IDENTIFIER = "6f1c9b1e-7c55-4d0a-8f61-3f5f8f0a6f5e"


def message(payload: bytes) -> Message:
    return Message("sensors/sensor-001/reading", payload, None)


def test_a_reading_has_an_id_and_a_time() -> None:
    reading = message(json.dumps({"message_id": IDENTIFIER, "timestamp": "2026-01-01T00:00:00Z"}).encode())
    assert message_id(reading) == IDENTIFIER
    assert made_at(reading) == datetime(2026, 1, 1, tzinfo=UTC)


NO_PLAIN_UUIDS = [
    f" {IDENTIFIER}",
    f"{IDENTIFIER}\n",
    f"{{{IDENTIFIER}}}",
    f"urn:uuid:{IDENTIFIER}",
    IDENTIFIER.replace("-", ""),
]


@pytest.mark.parametrize("value", NO_PLAIN_UUIDS)
def test_what_is_no_plain_uuid_is_no_id(value: str) -> None:
    try:
        found = message_id(message(json.dumps({"message_id": value}).encode()))
    except ValueError:  # mqtt-delivery takes it for none
        found = None
    assert found is None


@given(st.binary() | st.text().map(lambda text: json.dumps({"message_id": text}).encode()))
def test_any_payload_has_an_id_that_a_header_can_carry_or_none(payload: bytes) -> None:
    try:
        found = message_id(message(payload))
    except Exception:  # mqtt-delivery takes it for none
        return
    assert found is None or re.fullmatch(r"[0-9a-fA-F-]{36}", found)


@pytest.mark.parametrize("value", ["a/b", "+", "a#", "a\nb", "x" * 101])
def test_a_share_name_that_would_break_the_filter_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    monkeypatch.setenv("SHARE_NAME", value)
    with pytest.raises(SystemExit):
        load_settings(Settings)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"SHARE_NAME is {value!r}; it must be 1 to 100 characters without / + # or a control character"


@pytest.mark.parametrize("value", ["not a url", "ftp://echo/", "http://"])
def test_a_wrong_echo_url_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    monkeypatch.setenv("ECHO_URL", value)
    with pytest.raises(SystemExit):
        load_settings(Settings)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"ECHO_URL is {value!r}; it must be a URL, such as http://127.0.0.1:8080/echo"
