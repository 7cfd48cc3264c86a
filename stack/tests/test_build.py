from pathlib import Path

import pytest

from stack import build
from stack.errors import StackError
from stack.settings import Settings


@pytest.fixture
def empty_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing on the path, nothing in the cache."""
    monkeypatch.setattr(build, "SYSTEM_FOLDERS", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("OTELCOL", raising=False)
    return tmp_path


def program(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_without_a_package_manager_it_says_what_to_install(empty_machine: Path) -> None:
    with pytest.raises(StackError, match=r"mosquitto is not installed.*apt-get install mosquitto mosquitto-clients"):
        build.prepare(Settings())


def test_without_go_it_says_what_needs_it(empty_machine: Path) -> None:
    program(empty_machine, "mosquitto")
    with pytest.raises(StackError, match="the Collector has to be built once, which needs Go"):
        build.prepare(Settings())


def test_a_collector_on_the_path_is_used(empty_machine: Path) -> None:
    found = program(empty_machine, "otelcol-contrib")
    assert build.paths()["otelcol"] == found


def test_a_collector_that_is_named_is_used(empty_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(empty_machine, "otelcol-contrib")
    monkeypatch.setenv("OTELCOL", "/opt/otelcol")
    assert build.paths()["otelcol"] == Path("/opt/otelcol")


def test_a_collector_that_is_named_but_not_there_is_an_error(
    empty_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(empty_machine, "mosquitto")
    monkeypatch.setenv("OTELCOL", str(empty_machine / "nowhere"))
    with pytest.raises(StackError, match=r"OTELCOL is .*nowhere.*no program"):
        build.prepare(Settings())


def test_another_manifest_is_another_program(empty_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = build.paths()["otelcol"]
    manifest = empty_machine / "builder.yaml"
    manifest.write_text("dist: {}\n")
    monkeypatch.setattr(build, "BUILDER_MANIFEST", manifest)
    assert build.paths()["otelcol"] != before
    assert before.is_relative_to(empty_machine)


def test_without_npm_the_tests_say_what_to_install(empty_machine: Path) -> None:
    with pytest.raises(StackError, match=r"npm is not installed.*apt-get install npm"):
        build.grafana_types()


def test_types_that_npm_cannot_fetch_are_an_error_and_leave_nothing(empty_machine: Path) -> None:
    program(empty_machine, "npm").write_text("#!/bin/sh\necho no such package >&2\nexit 1\n")
    with pytest.raises(StackError, match="npm could not fetch Grafana's types:\nno such package"):
        build.grafana_types()
    assert not list(empty_machine.rglob("node_modules"))
