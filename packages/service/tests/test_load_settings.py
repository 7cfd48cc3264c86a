from typing import Literal

import pytest
from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service import Port, load_settings, refusals


class Example(BaseSettings):
    model_config = SettingsConfigDict(env_ignore_empty=True)

    example_port: Port = 1
    example_mode: Literal["fast", "slow"] = Field(default="fast", description="fast or slow")
    example_secret: SecretStr = Field(default=SecretStr("good"), max_length=4, description="at most 4 characters")
    example_name: str = Field(description="a name")

    @model_validator(mode="after")
    def _together(self) -> "Example":
        if self.example_port == 99:
            raise ValueError("EXAMPLE_PORT must not be 99 today")
        return self


def lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **values: str) -> list[str]:
    for name, value in {"example_name": "x", **values}.items():
        monkeypatch.setenv(name.upper(), value)
    with pytest.raises(SystemExit) as stopped:
        load_settings(Example)
    assert stopped.value.code == 2
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("value", ["abc", "0", "65536", "1.5"])
def test_a_wrong_value_is_one_line_with_name_value_and_what_it_may_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    assert lines(monkeypatch, capsys, example_port=value) == [
        f"EXAMPLE_PORT is {value!r}; it must be a TCP port, 1 to 65535"
    ]


def test_every_wrong_value_has_its_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = lines(monkeypatch, capsys, example_port="x", example_mode="medium")
    assert found[1] == "EXAMPLE_MODE is 'medium'; it must be fast or slow"
    assert len(found) == 2


def test_a_secret_is_never_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert lines(monkeypatch, capsys, example_secret="hunter2") == [
        "EXAMPLE_SECRET is (not shown); it must be at most 4 characters"
    ]


def test_a_missing_value_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert lines(monkeypatch, capsys, example_name="") == ["EXAMPLE_NAME is not set; it must be a name"]


def test_values_that_do_not_fit_together_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lines(monkeypatch, capsys, example_port="99") == ["EXAMPLE_PORT must not be 99 today"]


def test_an_empty_value_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLE_PORT", "")
    monkeypatch.setenv("EXAMPLE_NAME", "x")
    assert load_settings(Example).example_port == 1


def test_what_another_process_would_refuse_is_said_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EXAMPLE_PORT", "0")
    given = {"EXAMPLE_NAME": "x", "EXAMPLE_PORT": "7", "EXAMPLE_MODE": "medium", "EXAMPLE_SECRET": "", "OTHER": "y"}
    assert refusals(Example, given) == {"EXAMPLE_MODE": "EXAMPLE_MODE is 'medium'; it must be fast or slow"}
    assert refusals(Example, given | {"EXAMPLE_MODE": "slow"}) == {}
    today = "EXAMPLE_PORT must not be 99 today"
    assert refusals(Example, {"EXAMPLE_NAME": "x", "EXAMPLE_PORT": "99"}) == {today: today}
    assert capsys.readouterr().err == ""
