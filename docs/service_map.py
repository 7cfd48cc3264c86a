"""Draws which service reaches which, by the traces that the viewer holds; an argument names another folder.

No backend that runs without Docker draws it: the viewer has no such page, and Zipkin's leaves MQTT out, since it joins
a publisher and a subscriber by the name of their broker only.
"""

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from stack.settings import Settings
from stack.viewer import Viewer

MOST_TRACES = 200
STYLE = """
    graph [rankdir=LR fontname="Helvetica,Arial,sans-serif" bgcolor=white pad=0.2 nodesep=0.4 ranksep=1.3]
    node [fontname="Helvetica,Arial,sans-serif" fontsize=14 style=filled fillcolor="#eef3fb" color="#3b6ea8"]
    edge [fontname="Helvetica,Arial,sans-serif" fontsize=11 color="#666666"]
"""


def calls(viewer: Viewer) -> Counter[tuple[str, str, str]]:
    """How often one service reached another, and by which protocol: a span below a span of another service."""
    found: Counter[tuple[str, str, str]] = Counter()
    for trace_id in viewer.trace_ids(0, time.time_ns())[:MOST_TRACES]:
        spans = {span.span_id: span for span in viewer.trace(trace_id)}
        for span in spans.values():
            parent = spans.get(span.parent_id or "")
            if parent is not None and parent.service != span.service:
                found[parent.service, span.service, "MQTT" if parent.kind == "Producer" else "HTTP"] += 1
    return found


def main() -> None:
    """Writes the picture, in Graphviz's words and as SVG."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures"
    edges = [
        f'    "{source}" -> "{target}" [label="{protocol}, {count} times"]'
        for (source, target, protocol), count in calls(Viewer(Settings().viewer_port)).most_common()
    ]
    drawing = "digraph services {" + STYLE + "\n".join(edges) + "\n}\n"
    subprocess.run(["dot", "-Tsvg", "-o", folder / "service-map.svg"], input=drawing, text=True, check=True)


if __name__ == "__main__":
    main()
