"""The limit: readings straight to echo, without MQTT; ``WORKERS`` threads with a session each."""

import json
import os
import threading
from collections.abc import Iterator

import requests

from benchmarks.programs.stopwatch import Stopwatch
from benchmarks.readings import numbered_reading


def work(payloads: Iterator[tuple[str, bytes]], stopwatch: Stopwatch) -> None:
    """Sends readings until there are no more."""
    session = requests.Session()
    for identifier, payload in payloads:
        headers = {"Content-Type": "application/json", "Idempotency-Key": identifier}
        response = session.post(os.environ["ECHO_URL"], data=payload, headers=headers, timeout=3)
        response.raise_for_status()
        json.loads(response.content)
        stopwatch.tick()


def main() -> None:
    """Sends ``READINGS`` readings."""
    count = int(os.environ["READINGS"])
    stopwatch = Stopwatch(count)
    readings = [numbered_reading(number) for number in range(count)]
    # Getting the next item of a list's iterator is atomic, so threads can share it.
    payloads = iter([(str(made["message_id"]), json.dumps(made).encode()) for made in readings])
    threads = [threading.Thread(target=work, args=(payloads, stopwatch)) for _ in range(int(os.environ["WORKERS"]))]
    for thread in threads:
        thread.start()


if __name__ == "__main__":
    main()
