"""What a web page that a developer visits can do to the stack on their machine: nothing.

A page of another origin sends a request as any program does; what it may read of the answer is up to the answer's
headers (CORS, https://fetch.spec.whatwg.org/#http-cors-protocol). By DNS rebinding a page becomes of the stack's own
origin: its domain leads to 127.0.0.1, and only the Host header still says whose page it is.
"""

import socket
from collections.abc import Callable

import requests

from harness import Stack
from stack.part import local_url


def open_ports(stack: Stack) -> set[str]:
    """Which of the Collector's extras somebody can connect to."""
    settings = stack.settings
    ports = {
        "zipkin": settings.zipkin_receiver_port,
        "pprof": settings.collector_pprof_port,
        "zpages": settings.collector_zpages_port,
    }
    found: set[str] = set()
    for name, port in ports.items():
        with socket.socket() as connection:
            if connection.connect_ex(("127.0.0.1", port)) == 0:
                found.add(name)
    return found


def test_what_answers_whoever_asks_is_off(stack: Stack) -> None:
    assert open_ports(stack) == set()


def test_what_answers_whoever_asks_is_there_for_who_asks_for_it(new_stack: Callable[..., Stack]) -> None:
    stack = new_stack(COLLECTOR_EXTRAS="zpages, zipkin", DEVICES="1")
    stack.up()
    assert open_ports(stack) == {"zpages", "zipkin"}
    pages = requests.get(local_url(stack.settings.collector_zpages_port, "/debug/pipelinez"), timeout=5).text
    assert "zipkin" in pages
    assert stack.run("verify").returncode == 0
