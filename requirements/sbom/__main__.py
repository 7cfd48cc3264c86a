"""Writes a bill of materials for each image and for each program that Go builds: CycloneDX 1.6, as JSON.

What an image holds is what its Dockerfile names: the official images it is made of, and the lock file that is installed
into it. What those images hold is their publishers' to say. A program of the local runtime tells its modules itself.
"""

import argparse
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from packageurl import PackageURL

from stack import build, programs

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DOCKERFILES = sorted(path for path in ROOT.glob("*/**/Dockerfile") if ".venv" not in path.parts)


def container(reference: str) -> dict[str, str]:
    """The component of an official image, such as ``python:3.13-slim``."""
    reference, _, digest = reference.partition("@")
    name, _, tag = reference.rpartition(":")
    *path, short = name.split("/")
    registry = path.pop(0) if path and "." in path[0] else None
    qualifiers = {"repository_url": registry} if registry else {}
    purl = PackageURL("docker", "/".join(path) or None, short, digest or tag, qualifiers).to_string()
    return {"type": "container", "bom-ref": purl, "name": name, "version": tag, "purl": purl}


def debian_package(name: str) -> dict[str, str]:
    """The component of a package that a Dockerfile installs in the version of that day."""
    purl = PackageURL("deb", "debian", name).to_string()
    return {"type": "library", "bom-ref": purl, "name": name, "purl": purl}


def of_image(dockerfile: Path) -> dict[str, Any]:
    """The bill of materials of an image.

    Raises:
        subprocess.CalledProcessError: If cyclonedx-py refuses the lock file; it says why.
    """
    text = dockerfile.read_text()
    stages = re.findall(r"^FROM \S+ AS (\S+)", text, re.M)
    images = sorted(set(re.findall(r"^(?:FROM |COPY --from=)(\S+)", text, re.M)) - set(stages))
    installed = re.findall(r"apt-get install .*--no-install-recommends (\S+)", text)
    # That of the build backend stays in the stage before.
    locks = set(re.findall(r"requirements/(\S+\.txt)", text)) - {"build.txt"}
    lock = "".join((ROOT / "requirements" / name).read_text() for name in sorted(locks))
    command = [sys.executable, "-m", "cyclonedx_py", "requirements", "--output-reproducible", "--short-PURLs"]
    command += ["--no-validate", "-"]
    done = subprocess.run(command, input=lock, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603 (our own arguments)
    bill = json.loads(done.stdout)
    name = dockerfile.parent.name
    subject = {"type": "container", "bom-ref": name, "name": name}
    project = dockerfile.with_name("pyproject.toml")
    if project.exists():
        subject["version"] = tomllib.loads(project.read_text())["project"]["version"]
    bill["metadata"]["component"] = subject
    bill["components"] = [*map(container, images), *map(debian_package, installed), *bill.get("components", [])]
    return bill


def of_program(name: str) -> dict[str, Any]:
    """The bill of materials of a program of the local runtime, which is built from stack/programs/go.mod.

    Raises:
        subprocess.CalledProcessError: If cyclonedx-gomod cannot read the program; it says why.
    """
    command = ["go", "tool", "cyclonedx-gomod", "bin", "-json", "-licenses", "-noserial", "-output-version", "1.6"]
    path = str(build.paths()[name])
    done = subprocess.run([*command, path], cwd=HERE, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603 (our own arguments)
    bill = json.loads(done.stdout)
    # When it was made is no material.
    del bill["metadata"]["timestamp"]
    return bill


def main() -> None:
    """Writes them all into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images-only", action="store_true", help="without the programs that Go builds")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    bills = {dockerfile.parent.name: of_image(dockerfile) for dockerfile in DOCKERFILES}
    if not arguments.images_only:
        bills |= {name: of_program(name) for name in (*programs.MANIFESTS, programs.VIEWER)}
    for name, bill in sorted(bills.items()):
        file = arguments.folder / f"{name}.cdx.json"
        file.write_text(json.dumps(bill, indent=2) + "\n")
        sys.stdout.write(f"{file}: {len(bill['components'])} components\n")


if __name__ == "__main__":
    main()
