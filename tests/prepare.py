"""Installs and builds what the tests start, besides what the stack itself needs; ``make test`` does this first."""

import shutil
import tempfile
from pathlib import Path

from service import load_settings
from stack import build, programs
from stack.console import console, exit_code
from stack.settings import ROOT, Settings

GRAFANA_SCHEMA = ROOT / "backends" / "observability" / "grafana" / "schema"


def main() -> None:
    """Prepares everything.

    Raises:
        StackError: If that is not possible here; names what to install.
    """
    build.require_broker()
    build.build_missing({*programs.MANIFESTS, programs.VIEWER})
    build.prepare(load_settings(Settings))
    build.require_command("chromium", "chromium")
    build.require_command("dot", "graphviz")
    build.require_command("promtool", "prometheus")
    grafana_types()


def grafana_types() -> Path:
    """The folder ``node_modules`` with Grafana's types and a compiler, installed once from the lock file.

    Raises:
        StackError: If npm is missing or cannot install them.
    """
    manifests = [GRAFANA_SCHEMA / name for name in ("package.json", "package-lock.json")]
    installed = build.cached("node_modules", *manifests)
    if installed.exists():
        return installed
    build.require_command("npm", "npm")
    installed.parent.mkdir(parents=True, exist_ok=True)
    with (
        console.status("Fetching Grafana's types (once) ..."),
        tempfile.TemporaryDirectory(dir=build.cache_folder()) as folder,
    ):
        for manifest in manifests:
            shutil.copy(manifest, folder)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        build.run(command, "npm could not fetch Grafana's types", cwd=folder)
        Path(folder, "node_modules").rename(installed)
    return installed


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
