"""The backends of BACKENDS that run without Docker."""

from collections.abc import Mapping
from pathlib import Path

from stack.errors import StackError
from stack.part import Part, answers, local_url
from stack.settings import ROOT, Settings

PROMETHEUS = ROOT / "backends" / "observability" / "prometheus"


def check_local(settings: Settings) -> None:
    """Refuses a backend that needs Docker.

    Raises:
        StackError: Names the backend, and how to get it.
    """
    # Azure Monitor runs nothing on this machine.
    if missing := [name for name in settings.backends if name not in ("zipkin", "prometheus", "azuremonitor")]:
        raise StackError(
            f"BACKENDS has {', '.join(missing)}, which the local runtime cannot run; "
            "with Docker: make up RUNTIME=docker"
        )


def local_backends(settings: Settings, binaries: Mapping[str, Path]) -> list[Part]:
    """The backends that run as processes of this machine."""
    folder = settings.run_dir / "prometheus"
    parts = [
        Part(
            name="zipkin",
            command=["java", "-Xmx256m", "-jar", str(binaries["zipkin"])],
            environment={"QUERY_PORT": str(settings.zipkin_port)},
            reads=frozenset({"JAVA_HOME", "JAVA_TOOL_OPTIONS"}),
            healthy=answers(local_url(settings.zipkin_port, "/health")),
            wave=2,
            address=local_url(settings.zipkin_port),
        ),
        Part(
            name="prometheus",
            command=[
                str(binaries["prometheus"]),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{settings.prometheus_port}",
                "--enable-feature=exemplar-storage",
            ],
            healthy=answers(local_url(settings.prometheus_port, "/-/ready")),
            wave=2,
            address=local_url(settings.prometheus_port),
        ),
    ]
    return [part for part in parts if part.name in settings.backends]


def write_prometheus_configuration(settings: Settings) -> None:
    """Writes Prometheus's configuration for the local runtime: that of the containers, with other addresses."""
    folder = settings.run_dir / "prometheus"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = (PROMETHEUS / "prometheus.yml").read_text()
    text = text.replace("collector:8889", f"127.0.0.1:{settings.collector_prometheus_port}")
    text = text.replace("collector:8888", f"127.0.0.1:{settings.collector_metrics_port}")
    (folder / "prometheus.yml").write_text(text.replace("rules.yml", str(PROMETHEUS / "rules.yml")))


def backend_pages(settings: Settings) -> dict[str, str]:
    """The name and the address of each backend's page on this machine."""
    ports = {name: getattr(settings, f"{name}_port", None) for name in settings.backends}
    return {name.capitalize(): local_url(port) for name, port in ports.items() if port}
