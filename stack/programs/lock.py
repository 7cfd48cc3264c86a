"""Writes go.mod and go.sum in this folder: each module that the Collector's manifests and the viewer need, by hash.

A component has the version in its manifest. The builder and the Collector around the components have the manifest's own
version. The viewer's version is in go.mod.
"""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from stack.console import progress
from stack.programs import BUILDER, LOCKS, MANIFESTS, MODULE, Work, generate

COLLECTOR = "go.opentelemetry.io/collector/otelcol"
RELEASE = re.compile(r"^  version: (\S+)$", re.M)
COMPONENT = re.compile(r"- gomod: (\S+) (\S+)$", re.M)
REPLACEMENT = re.compile(r"- (\S+) => (\S+) (\S+)$", re.M)


def main() -> None:
    """Updates the two files to what the manifests require."""
    text = "".join(manifest.read_text() for manifest in MANIFESTS.values())
    releases = RELEASE.findall(text)
    builder = [f"-require={BUILDER}@v{version}" for version in releases]
    components = [f"-require={name}@{version}" for name, version in COMPONENT.findall(text)]
    components += [f"-require={COLLECTOR}@v{version}" for version in releases]
    replacements = [f"-replace={name}={other}@{version}" for name, other, version in REPLACEMENT.findall(text)]
    with progress() as show, tempfile.TemporaryDirectory() as folder:
        module = Path(folder)

        def go_mod(*arguments: str) -> None:
            subprocess.run(["go", "mod", *arguments], cwd=module, check=True)

        for lock in LOCKS:
            shutil.copy(lock, module)
        go_mod("edit", *builder)
        go_mod("tidy")
        generate(module, MANIFESTS, Work(show))
        go_mod("edit", *components, *replacements)
        go_mod("tidy")
        for lock in LOCKS:
            shutil.copy(module / lock.name, MODULE)


if __name__ == "__main__":
    main()
