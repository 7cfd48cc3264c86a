import json

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from echo.answers import ENTRY_BYTES, Answers
from echo.app import app

client = TestClient(app, raise_server_exceptions=False)
READING = {
    "message_id": "6f1c9b1e-7c55-4d0a-8f61-3f5f8f0a6f5e",
    "device_id": "sensor-001",
    "sequence": 17,
    "timestamp": "2026-01-01T00:00:00Z",
    "temperature_c": 20.5,
    "humidity_pct": 40.1,
}


def post(body: bytes) -> tuple[int, str]:
    answer = client.post("/echo", content=body, headers={"Content-Type": "application/json"})
    return answer.status_code, answer.text


def test_a_reading_comes_back() -> None:
    answer = client.post("/echo", json=READING)
    assert (answer.status_code, answer.json()) == (200, READING)


def test_healthz_answers() -> None:
    assert client.get("/healthz").json() == {"status": "ok"}


@pytest.mark.parametrize("field", READING)
@pytest.mark.parametrize("value", ["null", "[]", '"\\ud800"', "NaN", '"x/y z"', "-1e400"])
def test_a_wrong_field_is_refused_by_its_name(field: str, value: str) -> None:
    body = json.dumps(READING | {field: "@"}).replace('"@"', value).encode()
    status, text = post(body)
    if status == 200:
        pytest.fail(f"{field}={value} was taken: {text}")
    assert 400 <= status < 500
    assert field in text


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b'"x"', b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": NaN}'])
def test_what_is_no_reading_is_refused_with_a_reason(body: bytes) -> None:
    status, text = post(body)
    assert 400 <= status < 500
    assert json.loads(text)["detail"]


@given(st.binary())
def test_no_body_is_answered_with_500(body: bytes) -> None:
    assert post(body)[0] < 500


@given(st.dictionaries(st.sampled_from(list(READING)), st.text() | st.integers() | st.floats() | st.none()))
def test_no_json_is_answered_with_500(changed: dict[str, object]) -> None:
    assert post(json.dumps(READING | changed).encode())[0] < 500


def test_an_array_of_readings_comes_back() -> None:
    answer = client.post("/echo", json=[READING, READING])
    assert (answer.status_code, answer.json()) == (200, [READING, READING])


def test_one_wrong_reading_refuses_the_whole_array() -> None:
    status, text = post(json.dumps([READING, READING | {"sequence": -1}]).encode())
    assert status == 422
    assert "sequence" in text


def test_a_request_that_comes_again_gets_the_first_answer() -> None:
    key = {"Idempotency-Key": "one"}
    first = client.post("/echo", json=READING, headers=key)
    again = client.post("/echo", json=READING | {"sequence": 18}, headers=key)
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json() == first.json() == READING
    assert client.post("/echo", json=READING | {"sequence": 18}).json()["sequence"] == 18


def test_what_is_refused_is_not_kept() -> None:
    key = {"Idempotency-Key": "two"}
    assert client.post("/echo", json=READING | {"sequence": -1}, headers=key).status_code == 422
    assert client.post("/echo", json=READING, headers=key).json() == READING


def test_the_memory_for_answers_is_bounded() -> None:
    answers = Answers(3 * (ENTRY_BYTES + 2 + 100))
    for number in range(10, 100):
        answers.keep(str(number), b"x" * 100)
    assert [answers.get(str(number)) for number in (96, 97, 99)] == [None, b"x" * 100, b"x" * 100]
