"""Everything that is shipped has a permissive licence and is listed."""

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from stack import build, programs
from stack.settings import ROOT

OURS = subprocess.run(
    ["git", "ls-files", "*pyproject.toml"], cwd=ROOT, capture_output=True, text=True, check=True
).stdout.split()
DOCKERFILES = sorted(path for path in ROOT.glob("*/**/Dockerfile") if ".venv" not in path.parts)
LOCKS = [
    "run.txt",
    *sorted({name for path in DOCKERFILES for name in re.findall(r"requirements/(\S+\.txt)", path.read_text())}),
]
# copier needs it on the machine that runs `make new-service`; it is in no image and no wheel.
NOT_SHIPPED = {"jinja2-ansible-filters"}


def pins(lock: str) -> dict[str, str]:
    """Name and version of each package in a lock file."""
    return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", (ROOT / "requirements" / lock).read_text(), re.M))


def licence_of(name: str) -> str:
    """All that an installed package says about its licence, except for the text itself."""
    metadata = distribution(name).metadata
    said = [
        *(metadata.get_all("License-Expression") or []),
        next(iter(metadata.get_all("License") or [""])).split("\n")[0],
    ]
    said += [text for text in metadata.get_all("Classifier") or [] if text.startswith("License ::")]
    return " / ".join(filter(None, said))


@pytest.mark.parametrize("project", OURS)
def test_each_package_says_its_licence(project: str) -> None:
    assert tomllib.loads((ROOT / project).read_text())["project"]["license"] == "Apache-2.0"


def test_the_licence_is_one_text() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    for copy in ROOT.glob("packages/*/LICENSE"):
        assert copy.read_text() == text


@pytest.mark.parametrize("lock", LOCKS)
def test_nothing_that_is_shipped_is_under_the_gpl(lock: str) -> None:
    # Packages for another Python or another system are not installed here.
    markers = re.findall(r"^([\w.-]+)==\S+ ;", (ROOT / "requirements" / lock).read_text(), re.M)
    for name in pins(lock):
        if name in NOT_SHIPPED and lock == "run.txt":
            continue
        try:
            licence = licence_of(name)
        except ModuleNotFoundError:
            assert name in markers, f"{name} is not installed"
            continue
        assert licence, f"{name} says nothing of its licence"
        # With a choice of licences, we choose the permissive one.
        choices = licence.split(" OR ")
        assert not all(re.search(r"GPL|General Public", choice) for choice in choices), f"{name}: {licence}"


def validated(text: str) -> dict[str, Any]:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    return json.loads(text)


@pytest.mark.stack
def test_each_image_has_a_bill_of_materials_with_all_that_its_lock_file_pins(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "requirements" / "sbom"), str(tmp_path), "--images-only"]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    files = {path.name.removesuffix(".cdx.json"): path for path in tmp_path.iterdir()}
    assert files.keys() == {path.parent.name for path in DOCKERFILES}
    for dockerfile in DOCKERFILES:
        bill = validated(files[dockerfile.parent.name].read_text())
        purls = {component["purl"] for component in bill["components"]}
        text = dockerfile.read_text()
        for lock in set(re.findall(r"requirements/(\S+\.txt)", text)) - {"build.txt"}:
            assert {f"pkg:pypi/{name}@{version}" for name, version in pins(lock).items()} <= purls
        for image in set(re.findall(r"^(?:FROM |COPY --from=)(\S+:\S+)", text, re.M)):
            assert any(
                purl.startswith("pkg:docker/") and image.split("/")[-1].replace(":", "@") in purl for purl in purls
            )


@pytest.fixture
def sbom() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sbom", ROOT / "requirements" / "sbom" / "__main__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_image_that_is_pinned_by_digest_is_listed_by_it(sbom: ModuleType) -> None:
    digest = "sha256:" + 64 * "0"
    component = sbom.container(f"ghcr.io/ctrlspice/otel-desktop-viewer:v0.4.1@{digest}")
    assert (component["name"], component["version"]) == ("ghcr.io/ctrlspice/otel-desktop-viewer", "v0.4.1")
    assert component["purl"] == f"pkg:docker/ctrlspice/otel-desktop-viewer@{digest}?repository_url=ghcr.io"


@pytest.mark.stack
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [*programs.MANIFESTS, programs.VIEWER])
def test_a_program_that_go_builds_is_listed_and_has_nothing_under_the_gpl(sbom: ModuleType, name: str) -> None:
    if not build.paths()[name].is_relative_to(build.cache_folder()):
        pytest.skip("another program is taken than the one that is built")
    text = json.dumps(sbom.of_program(name))
    validated(text)
    components = json.loads(text)["components"]
    assert len(components) > 100
    for component in components:
        licences = [entry["license"] for entry in component.get("evidence", {}).get("licenses", [])]
        for licence in licences:
            assert "GPL" not in licence.get("id", licence.get("name", "")), component["name"]
