"""Makes the lock files in this folder: each dependency by version and hash, and no download address.

``dev.txt`` holds everything; ``run.txt`` is the part of it that runs the stack, the file of each service the part that
goes into its image, ``build.txt`` the part that builds our packages there, and ``bootstrap.txt`` the part that installs
the others. ``autoinstrumentation.txt`` goes into the pods that the OpenTelemetry Operator instruments, ``project.txt``
and ``project-dev.txt`` into each project of its own that the template makes.
"""

import argparse
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from jinja2 import Template
from uv import find_uv_bin

HERE = Path(__file__).parent
ROOT = HERE.parent
PACKAGES = sorted(path.parent for folder in ("*", "*/*") for path in ROOT.glob(f"{folder}/pyproject.toml"))
OWN_NAMES = [tomllib.loads((folder / "pyproject.toml").read_text())["project"]["name"] for folder in PACKAGES]
# Those that have an image.
SERVICES = [folder for folder in PACKAGES if (folder / "Dockerfile").exists()]


VENDORED = ("mqtt-delivery", "opentelemetry-instrumentation-paho-mqtt")


def project() -> str:
    """The pyproject.toml of a project of its own; the packages that it has as wheels are those of this repository."""
    template = Template((ROOT / "template" / "project" / "pyproject.toml.jinja").read_text())
    text = template.render(name="project", module="project", output="http", standalone=True)
    for name in VENDORED:
        text = text.replace(
            f'{name} = {{ index = "wheels" }}', f'{name} = {{ path = "{ROOT}/packages/{name}", editable = true }}'
        )
    return text


def compile_lock(sources: list[str], output: Path, options: list[str]) -> None:
    """Resolves for all platforms and Pythons at once; keeps the versions that ``output`` already names."""
    command = [find_uv_bin(), "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"]
    command += [
        "--generate-hashes",
        "--no-header",
        "--no-annotate",
        *[f"--no-emit-package={name}" for name in OWN_NAMES],
    ]
    subprocess.run([*command, *options, *sources, "--output-file", str(output)], cwd=ROOT, check=True)  # noqa: S603 (uv, with our own arguments)


def main() -> int:
    """Compiles all lock files, or with ``--check`` says which are not current."""
    parser = argparse.ArgumentParser(description="Makes the lock files, or checks them.")
    parser.add_argument("--check", action="store_true", help="change nothing, fail if a file is not current")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    arguments = parser.parse_args()
    stale: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder)
        for lock in HERE.glob("*.txt"):
            (target / lock.name).write_bytes(lock.read_bytes())
        everything = ["pyproject.toml", *(str(folder / "pyproject.toml") for folder in PACKAGES)]
        newest = ["--upgrade"] if arguments.upgrade else []
        compile_lock(everything, target / "dev.txt", ["--group", "dev", "--all-extras", *newest])
        pinned = ["--constraints", str(target / "dev.txt")]
        compile_lock(everything, target / "run.txt", ["--group", "run", *pinned])
        for service in SERVICES:
            compile_lock([str(service / "pyproject.toml")], target / f"{service.name}.txt", pinned)
        (target / "pyproject.toml").write_text(project())
        for name, extras in (("project", []), ("project-dev", ["--extra", "dev"])):
            compile_lock([str(target / "pyproject.toml")], target / f"{name}.txt", [*extras, *pinned])
        for tools in ("bootstrap", "build", "autoinstrumentation"):
            compile_lock([f"requirements/{tools}.in"], target / f"{tools}.txt", pinned)
        for lock in sorted(target.glob("*.txt")):
            current = HERE / lock.name
            if not current.exists() or current.read_bytes() != lock.read_bytes():
                stale.append(lock.name)
                if not arguments.check:
                    current.write_bytes(lock.read_bytes())
    if arguments.check and stale:
        sys.stderr.write(f"not current: {', '.join(stale)}; run `make lock`\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
