from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from stack import build, console, programs
from stack.errors import StackError
from stack.settings import Settings


@pytest.fixture
def empty_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty PATH and an empty cache."""
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
    program(empty_machine, "mosquitto_sub")
    with pytest.raises(StackError, match="building the Collector and the viewer needs Go"):
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
    program(empty_machine, "mosquitto_sub")
    monkeypatch.setenv("OTELCOL", str(empty_machine / "nowhere"))
    with pytest.raises(StackError, match=r"OTELCOL is .*nowhere.*not a program"):
        build.prepare(Settings())


def test_another_manifest_is_another_program(empty_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = build.paths()["otelcol"]
    manifest = empty_machine / "builder.yaml"
    manifest.write_text("dist: {}\n")
    monkeypatch.setitem(programs.MANIFESTS, "otelcol", manifest)
    assert build.paths()["otelcol"] != before
    assert before.is_relative_to(empty_machine)


@pytest.mark.parametrize(
    ("values", "collector"),
    [
        ({}, "otelcol-default"),
        ({"backends": "zipkin"}, "otelcol"),
        ({"tail_sampling_percentage": 0}, "otelcol"),
    ],
)
def test_backends_and_tail_sampling_take_the_collector_that_has_them(values: dict[str, Any], collector: str) -> None:
    assert build.collector_for(Settings(_env_file=None, **values)) == collector  # pyright: ignore[reportCallIssue] (pydantic-settings parses them)


def test_what_the_collectors_are_made_of_is_locked_in_the_versions_of_their_manifests() -> None:
    default, full = (yaml.safe_load(programs.MANIFESTS[name].read_text()) for name in ("otelcol-default", "otelcol"))
    lock = (programs.MODULE / "go.mod").read_text().replace("// indirect", "")
    locked = {tuple(line.split()) for line in lock.splitlines() if line.startswith("\t")}
    for kind in ("receivers", "processors", "exporters", "extensions", "providers"):
        modules = [component["gomod"] for component in full[kind]]
        assert {component["gomod"] for component in default[kind]} <= set(modules)
        assert {tuple(module.split()) for module in modules} <= locked
    assert full["replaces"] == default["replaces"]
    assert all(f"replace {replacement}\n" in lock for replacement in full["replaces"])
    release = f"v{full['dist']['version']}"
    assert {(programs.BUILDER, release), ("go.opentelemetry.io/collector/otelcol", release)} <= locked


def test_a_build_that_fails_says_why_and_leaves_nothing(empty_machine: Path) -> None:
    # Like Go's output: notes and names of packages among the errors.
    said = "go: downloading example.com/module v1.0.0\nexample.com/module\nmodule.go:1:1: syntax error"
    program(empty_machine, "go").write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    target = build.paths()[programs.VIEWER]
    with pytest.raises(StackError, match=r"`go mod` failed:\nmodule\.go:1:1: syntax error$"):
        programs.build({programs.VIEWER: target})
    assert not [*target.parent.iterdir()]
    assert {path.name for path in build.cache_folder().iterdir()} == {target.parent.name}


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "console", Console(highlight=False))
    monkeypatch.setattr(console, "LINE_SECONDS", 0.0)
    with console.progress() as show:
        show("Fetching modules", 3, None)
        show("Compiling packages", 412, 1076)
        monkeypatch.setattr(console, "LINE_SECONDS", 3600.0)
        show("Compiling packages", 413, 1076)
    assert capsys.readouterr().out == "Fetching modules: 3\nCompiling packages: 412 of 1076\n"
