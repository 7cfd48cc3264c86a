"""Draws which service reaches which, by the metrics in a running Prometheus; an argument names another folder.

The Collector's connector `service_graph` makes these metrics of the traces: collector/backends/prometheus.yaml.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import requests

from stack.part import local_url
from stack.settings import Settings

QUERY = "sum by (client, server, connection_type) (traces_service_graph_request_total)"
# What the connector calls a connection; it knows no name for HTTP.
PROTOCOLS = {"messaging_system": "MQTT", "": "HTTP"}
STYLE = """
    graph [rankdir=LR fontname="Helvetica,Arial,sans-serif" bgcolor=white pad=0.2 nodesep=0.4 ranksep=1.3]
    node [fontname="Helvetica,Arial,sans-serif" fontsize=14 style=filled fillcolor="#eef3fb" color="#3b6ea8"]
    edge [fontname="Helvetica,Arial,sans-serif" fontsize=11 color="#666666"]
"""


def edges(port: int) -> Iterator[str]:
    """The calls from one service to another, in Graphviz's words; only those of which both sides were seen."""
    answer = requests.get(local_url(port, "/api/v1/query"), {"query": QUERY}, timeout=10)
    answer.raise_for_status()
    for found in answer.json()["data"]["result"]:
        labels = found["metric"]
        protocol = PROTOCOLS.get(labels.get("connection_type", ""))
        if protocol:
            yield f'    "{labels["client"]}" -> "{labels["server"]}" [label="{protocol}, {found["value"][1]} times"]'


def main() -> None:
    """Writes the picture, in Graphviz's words and as SVG."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures"
    drawing = "digraph services {" + STYLE + "\n".join(sorted(edges(Settings().prometheus_port))) + "\n}\n"
    subprocess.run(["dot", "-Tsvg", "-o", folder / "service-map.svg"], input=drawing, text=True, check=True)


if __name__ == "__main__":
    main()
