"""The Collector's own metrics, in the Prometheus text format."""

import re

from stack.ask import ask
from stack.part import local_url
from stack.settings import Settings

SCOUT_EXPORTER = "otlp_http/b14"
_LINE = re.compile(r"^otelcol_(\w+)\{(.*)\} (\S+)$", re.M)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class CollectorMetrics:
    """The Collector's metrics at one time."""

    def __init__(self, text: str) -> None:
        # With some settings the Collector adds this suffix to the names of counters.
        self._samples = [
            (name.removesuffix("_total"), dict(_LABEL.findall(labels)), float(value))
            for name, labels, value in _LINE.findall(text)
        ]

    def total(self, name: str, **labels: str) -> int:
        """The sum over all samples of a metric that have these labels; ``name`` is without ``otelcol_``."""
        wanted = labels.items()
        return int(sum(value for found, given, value in self._samples if found == name and wanted <= given.items()))


def collector_metrics(settings: Settings, timeout_seconds: float = 5.0) -> CollectorMetrics:
    """The Collector's current metrics.

    Args:
        settings: The settings with its port.
        timeout_seconds: How long to wait for an answer.

    Raises:
        StackError: If the Collector does not answer.
    """
    url = local_url(settings.collector_metrics_port, "/metrics")
    return CollectorMetrics(ask("the Collector", url, timeout_seconds=timeout_seconds).text)
