"""Becomes one part of the stack: ``python launch.py FILE`` runs the command that the file describes.

supervisor expects each part's environment in its configuration, where quotes and percent signs in a password have a
meaning. This module imports nothing of the stack, so that it starts fast.
"""

import json
import os
import sys
from pathlib import Path


def main() -> None:
    """Replaces this process."""
    part = json.loads(Path(sys.argv[1]).read_text())
    # Supervisor may have restarted the part; the last heartbeat of the previous process does not count.
    if heartbeat := part["environment"].get("HEALTH_FILE"):
        Path(heartbeat).unlink(missing_ok=True)
    os.execvpe(part["command"][0], part["command"], part["environment"])  # noqa: S606 (no shell is the point)


if __name__ == "__main__":
    main()
