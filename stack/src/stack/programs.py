"""The programs that Go builds for the local runtime: one module, so that what they share is compiled once."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from stack.console import Show, progress
from stack.errors import StackError
from stack.settings import ROOT

# Its go.mod and go.sum say of which versions; stack/programs/lock.py makes them.
MODULE = ROOT / "stack" / "programs"
LOCKS = (MODULE / "go.mod", MODULE / "go.sum")
VIEWER = "otel-desktop-viewer"
PACKAGES = {VIEWER: "github.com/CtrlSpice/otel-desktop-viewer"}
# What its project has not taken yet: docs/upstream/otel-desktop-viewer.md.
VIEWER_PATCH = ROOT / "docs" / "upstream" / "otel-desktop-viewer.patch"
# Each Collector's manifest, from which the builder generates its source.
MANIFESTS = {
    "otelcol": ROOT / "collector" / "builder.yaml",
    "otelcol-default": ROOT / "collector" / "builder-default.yaml",
}
FETCHING = "go: downloading "
BUILDER = "go.opentelemetry.io/collector/cmd/builder"
# The same for all of them, or they would share nothing. No debug information, which takes a sixth of the time; Go's own
# resolver and user database, so that a Collector needs no library of the machine.
BUILD_FLAGS = ["-trimpath", "-ldflags=-s -w", "-gcflags=all=-dwarf=false", "-tags=netgo,osusergo"]


class Work:
    """What Go says that it has done; shows how far it is."""

    def __init__(self, show: Show) -> None:
        self.packages: set[str] = set()
        """All that there is to compile, once it is known."""
        self.mains: set[str] = set()
        """Those of them that become programs."""
        self._show = show
        self._fetched = 0
        self._compiled: set[str] = set()

    def fetch(self, line: str) -> None:
        """Takes a line of any of Go's commands."""
        if line.startswith(FETCHING):
            self._fetched += 1
            self._show("Fetching modules", self._fetched, None)

    def compile(self, line: str) -> None:
        """Takes a line of ``go build -v``, which names each package that it compiles."""
        self.fetch(line)
        if _is_package(line):
            self._compiled.add(line)
            known = self.packages or self._compiled
            what = "Linking" if self.mains and self.mains <= self._compiled else "Compiling packages"
            self._show(what, len(known & self._compiled), len(self.packages) or None)


def build(programs: Mapping[str, Path]) -> None:
    """Builds programs.

    Args:
        programs: Where each is to be, by its name: one of ``MANIFESTS``, or ``VIEWER``.

    Raises:
        StackError: If one could not be built; then none is there.
    """
    for program in programs.values():
        program.parent.mkdir(parents=True, exist_ok=True)
    cache = next(iter(programs.values())).parent.parent
    with progress() as show, tempfile.TemporaryDirectory(dir=cache) as scratch:
        module = Path(scratch)
        for lock in LOCKS:
            shutil.copy(lock, module)
        work = Work(show)
        generate(module, programs.keys() & MANIFESTS.keys(), work)
        if VIEWER in programs:
            _patch_viewer(module, work)
        mains = {PACKAGES.get(name, f"programs/{name}") for name in programs}
        listed = _run(module, ["go", "list", "-deps", *BUILD_FLAGS, *mains], work.fetch)
        work.packages = {line for line in listed if _is_package(line)}
        work.mains = mains
        built = module / "built"
        built.mkdir()
        _run(module, ["go", "build", "-v", *BUILD_FLAGS, "-o", str(built), *mains], work.compile)
        for name, program in programs.items():
            # Moved in one step, so that a second start at the same time never sees half a program.
            (built / name).rename(program)


def _patch_viewer(module: Path, work: Work) -> None:
    """Makes the Go module in a folder build the viewer from a copy of its source that is patched."""
    listed = _run(module, ["go", "mod", "download", "-json", PACKAGES[VIEWER]], work.fetch)
    told = [line for line in listed if not line.startswith("go: ")]
    source = module / "viewer"
    # Not their modes: Go's files are read-only.
    shutil.copytree(json.loads("".join(told))["Dir"], source, copy_function=shutil.copyfile)
    for folder in (source, *(path for path in source.rglob("*") if path.is_dir())):
        folder.chmod(0o755)
    _run(source, ["patch", "--strip=1", f"--input={VIEWER_PATCH}"], work.fetch)
    _run(module, ["go", "mod", "edit", f"-replace={PACKAGES[VIEWER]}=./viewer"], work.fetch)


def generate(module: Path, collectors: Iterable[str], work: Work) -> None:
    """Puts a package for each of these Collectors into the Go module in a folder, as the builder generates it."""
    if not (names := sorted(collectors)):
        return
    _run(module, ["go", "build", "-v", *BUILD_FLAGS, "-o", "builder", BUILDER], work.compile)
    for name in names:
        text = MANIFESTS[name].read_text()
        manifest = module / f"{name}.yaml"
        manifest.write_text(text.replace("dist:\n", f"dist:\n  output_path: {module / name}\n", 1))
        _run(module, ["./builder", "--skip-get-modules", "--skip-compilation", f"--config={manifest}"], work.fetch)


def _is_package(line: str) -> bool:
    """Whether a line of Go's output names a package, and is no note and no error."""
    return line != "" and " " not in line


def _run(module: Path, command: list[str], look: Callable[[str], None]) -> list[str]:
    """Runs a command and looks at each line that it prints as it comes; returns them all.

    Raises:
        StackError: If it fails; has the end of what it said.
    """
    environment = {**os.environ, "GOFLAGS": "-buildvcs=false", "GOWORK": "off"}
    lines: list[str] = []
    with subprocess.Popen(
        command,
        cwd=module,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None  # noqa: S101 (a pipe was asked for)
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            look(lines[-1])
    if process.returncode != 0:
        said = [line for line in lines if not _is_package(line) and not line.startswith(FETCHING)]
        raise StackError(f"`{' '.join(command[:2])}` failed:\n" + "\n".join(said)[-2000:])
    return lines
