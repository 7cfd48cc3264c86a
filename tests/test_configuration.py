"""The configuration files are correct, as checked by the programs that read them."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest
import yaml

from stack import build, programs
from stack.settings import BACKENDS, ROOT

OVERLAYS = sorted(path.stem for path in (ROOT / "collector" / "backends").glob("*.yaml"))
VALUES = {
    "JAEGER_OTLP_ENDPOINT": "jaeger:4317",
    "ZIPKIN_ENDPOINT": "http://zipkin:9411/api/v2/spans",
    "APPLICATIONINSIGHTS_CONNECTION_STRING": "InstrumentationKey=00000000-0000-0000-0000-000000000000",
    "TAIL_SAMPLING_PERCENTAGE": "10",
    "SCOUT_CLIENT_ID": "id",
    "SCOUT_CLIENT_SECRET": "secret",
    "SCOUT_TOKEN_URL": "https://scout.example/token",
    "SCOUT_OTLP_ENDPOINT": "https://scout.example/otlp",
    "ISSUER_URL": "https://scout.example",
}


def validated(program: str, *configs: str) -> str:
    """The output of a Collector that accepts these configurations."""
    options = [option for config in configs for option in ("--config", str(ROOT / config))]
    command = [str(build.paths()[program]), "validate", *options]
    done = subprocess.run(command, env={**os.environ, **VALUES}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("program", programs.MANIFESTS)
@pytest.mark.parametrize("config", ["collector/config.yaml", "backends/scout-local/gateway.yaml"])
def test_each_collector_accepts_the_default_configuration(program: str, config: str) -> None:
    validated(program, config)


@pytest.mark.parametrize("backend", OVERLAYS)
def test_the_collector_accepts_each_backend_beside_its_configuration(backend: str) -> None:
    configs = ["config.yaml", f"backends/{backend}.yaml", "tail-sampling.yaml"]
    assert "deprecated" not in validated("otelcol", *(f"collector/{name}" for name in configs))


KINDS = ("receivers", "processors", "exporters", "connectors", "extensions")
DEFAULT = ["collector/config.yaml", "backends/scout-local/gateway.yaml"]
MORE = ["collector/tail-sampling.yaml", *(f"collector/backends/{name}.yaml" for name in OVERLAYS)]


@pytest.mark.parametrize(("program", "configs"), [("otelcol-default", DEFAULT), ("otelcol", [*DEFAULT, *MORE])])
def test_a_collector_has_the_components_that_its_configurations_name_and_no_more(
    program: str, configs: list[str]
) -> None:
    path = build.paths()[program]
    if not path.is_relative_to(build.cache_folder()):
        pytest.skip("another Collector is taken, which has more")
    listed = subprocess.run([path, "components"], capture_output=True, text=True, check=True).stdout
    of_program = yaml.safe_load(listed)
    texts = [yaml.safe_load((ROOT / config).read_text()) for config in configs]
    for kind in KINDS:
        named = {name.split("/")[0] for text in texts for name in text.get(kind, {})}
        assert {component["name"] for component in of_program[kind]} == named, kind


def test_each_backend_has_an_overlay_with_pipelines_of_its_own() -> None:
    # Grafana gets nothing from the Collector: it queries Prometheus and the others.
    assert set(OVERLAYS) == {*BACKENDS} - {"grafana"}
    base = yaml.safe_load((ROOT / "collector" / "config.yaml").read_text())
    for backend in OVERLAYS:
        overlay = yaml.safe_load((ROOT / "collector" / "backends" / f"{backend}.yaml").read_text())
        for name, pipeline in overlay["service"]["pipelines"].items():
            signal, _, suffix = name.partition("/")
            assert suffix == backend
            # A connector ends pipelines of traces, and begins those of the metrics that it makes of them.
            connectors = [*overlay.get("connectors", {})]
            receivers = base["service"]["pipelines"][signal]["receivers"]
            assert pipeline["receivers"] == (receivers + connectors if signal == "metrics" else receivers)
            # The queue of Scout's exporter, which is on disk, collects batches itself.
            assert pipeline["processors"] == [*base["service"]["pipelines"][signal]["processors"], "batch"]
            assert pipeline["exporters"] == list(
                connectors if connectors and signal == "traces" else overlay["exporters"]
            )


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_backend_is_documented(backend: str) -> None:
    pages = (ROOT / "docs" / "backends").glob("*.md")
    assert any(f"BACKENDS={backend}\n" in page.read_text() for page in pages), "no page says how it is started"
    assert f"\n| `{backend}` |" in (ROOT / "backends" / "observability" / "README.md").read_text()


def test_the_backends_are_named_where_they_are_asked_for() -> None:
    assert f"# Any of {', '.join(BACKENDS)}, with commas" in (ROOT / ".env.example").read_text()


def test_the_scout_exporter_is_as_the_guide_says() -> None:
    config = yaml.safe_load((ROOT / "collector" / "config.yaml").read_text())
    assert config["exporters"]["otlp_http/b14"]["auth"] == {"authenticator": "oauth2client"}
    assert config["exporters"]["otlp_http/b14"]["compression"] == "gzip"
    assert config["extensions"]["oauth2client"]["endpoint_params"] == {"audience": "b14collector"}
    for signal, pipeline in config["service"]["pipelines"].items():
        assert pipeline["exporters"] == ["otlp_http/b14", "debug"], signal
        assert pipeline["processors"][0] == "memory_limiter", signal


def test_pyright_checks_every_python_file_and_the_published_packages_strictly(tmp_path: Path) -> None:
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    files = {Path(name) for name in names}
    published = ("packages/mqtt-delivery/src", "packages/opentelemetry-instrumentation-paho-mqtt/src")
    libraries = {file for file in files if any(map(file.is_relative_to, published))}
    assert libraries
    # Each file replaces the one of its name, with an error and with one that only strict mode reports.
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text('number: int = "text"\n\n\ndef same(value):\n    return value\n')
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    command = [sys.executable, "-m", "pyright", "--outputjson"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    reported: defaultdict[str, set[Path]] = defaultdict(set)
    for diagnostic in json.loads(done.stdout)["generalDiagnostics"]:
        reported[diagnostic["rule"]].add(Path(diagnostic["file"]).relative_to(tmp_path))
    assert reported["reportAssignmentType"] == files
    assert reported["reportMissingParameterType"] == libraries


def test_benchmarks_tests_and_types_find_the_same_modules() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    folders = tools["pytest"]["ini_options"]["pythonpath"]
    assert tools["pyright"]["extraPaths"] == folders
    assert f"PYTHONPATH={':'.join(folders)} " in (ROOT / "Makefile").read_text()
