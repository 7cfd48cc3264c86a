"""Checks by the Collector's own metrics that it accepts and delivers what the services send."""

import time
from collections.abc import Iterator, Mapping

from stack.collector_metrics import SCOUT_EXPORTER as EXPORTER
from stack.collector_metrics import CollectorMetrics, collector_metrics
from stack.doctor.result import Result
from stack.settings import Settings

TIMEOUT_SECONDS = 3.0
WATCH_SECONDS = 3.0
LOOK_SECONDS = 0.5
# What each signal consists of, as the counters name it.
SIGNALS = {"traces": "spans", "metrics": "metric_points", "logs": "log_records"}


def examine(settings: Settings) -> Iterator[Result]:
    """Checks the metrics over a few seconds."""
    looks = [collector_metrics(settings, TIMEOUT_SECONDS)]
    for _ in range(round(WATCH_SECONDS / LOOK_SECONDS)):
        time.sleep(LOOK_SECONDS)
        looks.append(collector_metrics(settings, TIMEOUT_SECONDS))
    problems = [*stuck(looks), *full(looks[-1]), *lost(looks[-1]), *refused(looks[-1])]
    yield from problems
    if not problems:
        sent = looks[-1].total("exporter_sent_spans", exporter=EXPORTER)
        yield Result("export", f"the Collector has delivered {sent} spans; nothing is stuck, lost or refused.")


def stuck(looks: list[CollectorMetrics]) -> Iterator[Result]:
    """Finds out whether data waits and none is delivered."""
    waiting: dict[str, int] = {}
    for signal, items in SIGNALS.items():
        queued = [metrics.total("exporter_queue_size", exporter=EXPORTER, data_type=signal) for metrics in looks]
        sent = [metrics.total(f"exporter_sent_{items}", exporter=EXPORTER) for metrics in looks]
        if min(queued) > 0 and sent[0] == sent[-1]:
            waiting[items] = queued[-1]
    if waiting:
        yield Result(
            "export",
            f"the Collector keeps {_amounts(waiting)} that it cannot deliver.",
            "see token endpoint and gateway here; `make logs PART=collector` shows its messages. Nothing is lost yet.",
        )


def full(metrics: CollectorMetrics) -> Iterator[Result]:
    """Finds out whether the queue will soon be full."""
    for signal, items in SIGNALS.items():
        size = metrics.total("exporter_queue_size", exporter=EXPORTER, data_type=signal)
        capacity = metrics.total("exporter_queue_capacity", exporter=EXPORTER, data_type=signal)
        if size > capacity / 2:
            yield Result(
                "export",
                f"the queue holds {size} of at most {capacity} {_words(items)}; when it is full, new data is lost.",
                "fix what blocks the export, or raise queue_size in collector/config.yaml.",
            )


def lost(metrics: CollectorMetrics) -> Iterator[Result]:
    """Finds out whether the Collector has dropped data."""
    if gone := _counted(metrics, "exporter_send_failed", "exporter_enqueue_failed", exporter=EXPORTER):
        yield Result(
            "export",
            f"the Collector has dropped {gone} since it started.",
            "`make logs PART=collector` says why: Scout refused them, or the queue was full.",
        )


def refused(metrics: CollectorMetrics) -> Iterator[Result]:
    """Finds out whether the Collector has refused data from the services."""
    if away := _counted(metrics, "receiver_refused", "receiver_failed"):
        yield Result(
            "export",
            f"the Collector has refused {away} since it started; the services retry for some seconds.",
            "it runs out of memory: raise limit_mib in collector/config.yaml, or send less.",
        )


def _counted(metrics: CollectorMetrics, *counters: str, **labels: str) -> str:
    totals = {
        items: sum(metrics.total(f"{counter}_{items}", **labels) for counter in counters) for items in SIGNALS.values()
    }
    return _amounts(totals)


def _amounts(totals: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {_words(items)}" for items, count in totals.items() if count)


def _words(items: str) -> str:
    return items.replace("_", " ")
