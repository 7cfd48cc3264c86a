"""Every wrong value of every variable of every service is reported in one clear line."""

import typing
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import trustme
from annotated_types import Ge, Gt, Le, MinLen
from pydantic import HttpUrl
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

import consumer.settings
import echo.settings
import producer.settings
import scout_local.settings
from service import load_settings
from stack.otel import OtelSettings
from stack.services import new_services
from stack.settings import Settings as StackSettings

CLASSES = [
    producer.settings.Settings,
    consumer.settings.Settings,
    echo.settings.Settings,
    scout_local.settings.Settings,
    StackSettings,
    OtelSettings,
    *(import_module(f"{service.module}.settings").Settings for service in new_services()),
]


def wrong_values(field: FieldInfo) -> Iterator[str]:
    """Values that the field's type and bounds exclude; none for free text."""
    kind = field.annotation
    members = typing.get_args(kind)
    if kind in (int, float):
        yield from ("abc", "1,5", "0x10")
    elif kind is bool:
        yield from ("maybe", "2")
    elif members and all(isinstance(member, str) for member in members):
        yield "something-else"
    elif kind is HttpUrl or HttpUrl in members:
        yield from ("nonsense", "ftp://host/", "http://")
    for bound in field.metadata:
        match bound:
            case Ge(ge=limit):
                yield str(int(typing.cast(int, limit)) - 1)
            case Gt(gt=limit):
                yield str(limit)
            case Le(le=limit):
                yield str(int(typing.cast(int, limit)) + 1)
            case _:
                pass


CASES = [
    pytest.param(settings, name, value, id=f"{settings.__module__}-{name.upper()}={value}")
    for settings in CLASSES
    for name, field in settings.model_fields.items()
    for value in wrong_values(field)
]


def test_there_are_cases_for_every_service() -> None:
    assert {case.values[0] for case in CASES} == set(CLASSES)
    assert len(CASES) > 100


@pytest.mark.parametrize(("settings", "name", "value"), CASES)
def test_a_wrong_value_is_one_line_with_its_name_its_value_and_what_it_may_be(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: type[BaseSettings],
    name: str,
    value: str,
) -> None:
    monkeypatch.setenv(name.upper(), value)
    with pytest.raises(SystemExit) as stopped:
        load_settings(settings)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    description = settings.model_fields[name].description
    assert description, f"{name.upper()} does not say what it may be"
    assert line == f"{name.upper()} is {value!r}; it must be {description}"


def test_a_text_that_must_not_be_empty_has_its_default_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    for settings in CLASSES:
        for name, field in settings.model_fields.items():
            if any(isinstance(bound, MinLen) for bound in field.metadata):
                monkeypatch.setenv(name.upper(), "")
                assert getattr(load_settings(settings), name) == field.default


@pytest.mark.parametrize("settings", [producer.settings.Settings, consumer.settings.Settings])
@pytest.mark.parametrize("content", ["absent", b"", b"no certificate", b"\x30\x82\x00\xff", "key", "folder", "broken"])
def test_an_authority_that_cannot_be_read_is_one_line_and_exit_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    settings: type[BaseSettings],
    content: str | bytes,
) -> None:
    file = tmp_path / "ca.crt"
    authority = trustme.CA()
    match content:
        case bytes():
            file.write_bytes(content)
        case "key":
            file.write_bytes(authority.private_key_pem.bytes())
        case "folder":
            file.mkdir()
        case "broken":
            file.write_bytes(authority.cert_pem.bytes()[:200])
        case _:
            pass
    monkeypatch.setenv("MQTT_CA_FILE", str(file))
    load_settings(settings)  # without TLS the file is not read
    monkeypatch.setenv("MQTT_TLS", "1")
    with pytest.raises(SystemExit) as stopped:
        load_settings(settings)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"MQTT_CA_FILE is {str(file)!r}; it must be the path of a PEM file with the authority's certificate"
    if not file.is_dir():
        file.write_bytes(authority.cert_pem.bytes())
        load_settings(settings)
