import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.processing import message_id
from consumer.settings import Settings
from service import load_settings

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("message_id"), inner),
)


@given(st.binary())
def test_any_payload_has_a_message_id_or_none(payload: bytes) -> None:
    assert message_id(payload) is None or isinstance(message_id(payload), str)


@given(json_values)
def test_any_json_has_a_message_id_that_can_be_encoded_or_none(value: object) -> None:
    found = message_id(json.dumps(value).encode())
    if isinstance(value, dict) and isinstance(value.get("message_id"), str):
        assert found is not None
        found.encode()
    else:
        assert found is None


def test_deep_nesting_and_lone_surrogates_are_no_trap() -> None:
    assert message_id(b"[" * 100_000) is None
    assert message_id(b'{"message_id": "\\ud800"}') == "?"


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
