"""Finds readings of the last minutes without a usable context, from the backend's spans."""

import time
from collections.abc import Iterator

from stack.doctor.result import Result, some
from stack.settings import Settings
from stack.viewer import Viewer

LATELY_SECONDS = 300
MOST_TRACES = 20


def examine(settings: Settings) -> Iterator[Result]:
    """Finds process spans of the consumer that are roots, though they should have a parent."""
    title = "missing context"
    if not settings.local_scout:
        yield Result(title, "search Scout for mqtt.missing_context=true.")
        return
    viewer = Viewer(settings.viewer_port)
    now = time.time_ns()
    since = now - LATELY_SECONDS * 10**9
    orphans = viewer.trace_ids(since, now, ("mqtt.missing_context", "true"))
    processed = viewer.trace_ids(since, now, ("messaging.operation.type", "process"))
    minutes = LATELY_SECONDS // 60
    if not orphans:
        yield Result(title, f"none in {len(processed)} traces of the last {minutes} minutes.")
        return
    spans = [span for trace_id in orphans[:MOST_TRACES] for span in viewer.trace(trace_id)]
    tagged = [span.attributes for span in spans if span.attributes.get("mqtt.missing_context")]
    reasons = some(str(attributes.get("mqtt.missing_context_reason")) for attributes in tagged)
    topics = some(str(attributes.get("messaging.destination.name")) for attributes in tagged)
    yield Result(
        title,
        f"{len(orphans)} of {len(processed)} traces of the last {minutes} minutes are roots of the consumer with "
        f"mqtt.missing_context=true ({reasons}): {topics}.",
        "look at the publisher of these topics: MQTT 5, and UserProperty set for each publish; `make trace` shows one.",
    )
