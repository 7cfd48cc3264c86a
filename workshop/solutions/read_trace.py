"""Reads the answers to exercise 1 from a trace: ``read_trace.py TRACE_ID``."""

import sys

from stack.settings import Settings
from stack.viewer import Viewer


def main() -> None:
    """Prints the answers in the form of the answers file."""
    trace_id = sys.argv[1]
    spans = {span.kind: span for span in Viewer(Settings().viewer_port).trace(trace_id)}
    print(f"READING_TRACE={trace_id}")
    print(f"BROKER_MS={(spans['Consumer'].start - spans['Producer'].start) / 1e6:.1f}")
    print(f"CLIENT_PORT={spans['Server'].attributes['client.port']}")


if __name__ == "__main__":
    main()
