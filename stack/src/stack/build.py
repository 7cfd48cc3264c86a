"""The programs that the local runtime needs, installed or built once and kept in the user's cache folder."""

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

from stack import programs
from stack.console import console
from stack.errors import StackError
from stack.settings import Settings

# Debian installs the broker there; not every PATH has these folders.
SYSTEM_FOLDERS = ("/usr/sbin", "/usr/local/sbin")
ZIPKIN = "io.zipkin:zipkin-server:3.5.1:jar:exec"
ZIPKIN_JAR = "zipkin-server-3.5.1-exec.jar"
ZIPKIN_SHA256 = "7ac633a6832647e71e50012a5e3e91fbc7054414955261724526030faf271d8d"


def cache_folder() -> Path:
    """The folder for built programs; other checkouts use it too."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mqtt-tracing"


def paths() -> dict[str, Path]:
    """The path of each program, built or not: ``OTELCOL``, then PATH, then the cache."""
    given = os.environ.get("OTELCOL") or shutil.which("otelcol-contrib")
    return {
        **{
            name: Path(given) if given else cached(name, manifest, *programs.LOCKS)
            for name, manifest in programs.MANIFESTS.items()
        },
        programs.VIEWER: cached(programs.VIEWER, *programs.LOCKS, programs.VIEWER_PATCH),
        "zipkin": cache_folder() / ZIPKIN_JAR,
        "prometheus": Path(shutil.which("prometheus", path=search_path()) or "/usr/bin/prometheus"),
    }


def collector_for(settings: Settings) -> str:
    """The name in ``paths`` of the Collector that has all components for these settings."""
    wants_more = settings.backends or settings.tail_sampling_percentage is not None
    return "otelcol" if wants_more else "otelcol-default"


def prepare(settings: Settings) -> dict[str, Path]:
    """Installs and builds the missing programs that these settings need.

    Raises:
        StackError: If that is not possible here; names what to install.
    """
    if settings.own_broker:
        require_broker()
    build_missing({collector_for(settings), *(("otelcol-default", programs.VIEWER) if settings.local_scout else ())})
    if "prometheus" in settings.backends:
        require_command("prometheus", "prometheus")
    if "zipkin" in settings.backends:
        require_command("java", "default-jre-headless")
        _fetch_zipkin(paths()["zipkin"])
    return paths()


def require_broker() -> None:
    """Makes sure that Mosquitto is installed, with its clients."""
    require_command("mosquitto", "mosquitto", "mosquitto-clients")
    require_command("mosquitto_sub", "mosquitto-clients")


def _fetch_zipkin(jar: Path) -> None:
    if jar.exists():
        return
    require_command("mvn", "maven")
    jar.parent.mkdir(parents=True, exist_ok=True)
    with console.status("Fetching Zipkin (once, 125 MB) ..."), tempfile.TemporaryDirectory(dir=jar.parent) as scratch:
        command = ["mvn", "--batch-mode", "--quiet", "dependency:copy", f"-Dartifact={ZIPKIN}"]
        run([*command, f"-DoutputDirectory={scratch}"], f"Maven could not fetch {ZIPKIN}", cwd=scratch)
        fetched = Path(scratch) / ZIPKIN_JAR
        if hashlib.sha256(fetched.read_bytes()).hexdigest() != ZIPKIN_SHA256:
            raise StackError(f"the file that Maven fetched for {ZIPKIN} has the wrong SHA-256")
        fetched.rename(jar)


def require_command(command: str, *packages: str) -> None:
    """Makes sure that a system program is installed; installs Debian's packages if this user may."""
    if shutil.which(command, path=search_path()):
        return
    apt = shutil.which("apt-get")
    if apt is None or os.getuid() != 0:
        raise StackError(
            f"{command} is not installed; install it, on Debian with: sudo apt-get install {' '.join(packages)}"
        )
    with console.status(f"Installing {' '.join(packages)} with apt ..."):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        problem = f"apt-get could not install {' '.join(packages)}"
        # Try to install even if the index cannot be updated.
        subprocess.run([apt, "--quiet", "update"], env=environment, stdin=DEVNULL, capture_output=True, check=False)
        install = [apt, "--quiet", "install", "--yes", "--no-install-recommends", *packages]
        run(install, problem, env=environment)


def run(command: list[str], problem: str, **how: Any) -> None:
    """Runs a command that fetches something; its options are those of ``subprocess.run``.

    Raises:
        StackError: If it fails: the problem, and the end of its output.
    """
    done = subprocess.run(command, stdin=DEVNULL, capture_output=True, text=True, check=False, **how)
    if done.returncode != 0:
        raise StackError(f"{problem}:\n{(done.stdout + done.stderr).strip()[-1000:]}")


def search_path() -> str:
    """PATH, and the folders of the system's programs."""
    return os.pathsep.join((os.environ.get("PATH", ""), *SYSTEM_FOLDERS))


def cached(program: str, *manifests: Path) -> Path:
    """The path of a program that is built from these files, built or not."""
    digest = hashlib.sha256(b"".join(manifest.read_bytes() for manifest in manifests)).hexdigest()[:16]
    return cache_folder() / digest / program


def build_missing(names: Iterable[str]) -> None:
    """Builds those of these programs that are missing; the names are those of ``paths``.

    Raises:
        StackError: If OTELCOL names no program, or if building is not possible here; names what to install.
    """
    found = paths()
    if "OTELCOL" in os.environ and not os.access(found["otelcol"], os.X_OK):
        raise StackError(f"OTELCOL is {os.environ['OTELCOL']}, which is not a program that this user can run")
    missing = {name: found[name] for name in sorted(names) if not found[name].exists()}
    if not missing:
        return
    wanted = {"the Collector": missing.keys() & programs.MANIFESTS, "the viewer": missing.keys() & {programs.VIEWER}}
    names = " and ".join(name for name, found in wanted.items() if found)
    if shutil.which("go") is None:
        raise StackError(f"building {names} needs Go 1.26 or newer (https://go.dev/dl/); or use RUNTIME=docker")
    if programs.VIEWER in missing:
        # Its database is written in C++.
        require_command("g++", "g++")
        require_command("patch", "patch")
    console.print(f"Building {names} (once, about 2 minutes) ...")
    started = time.monotonic()
    programs.build(missing)
    console.print(f"Built {names} in {time.monotonic() - started:.0f} s.")
