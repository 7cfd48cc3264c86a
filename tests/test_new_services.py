"""Services made by ``make new-service``, as parts of a running stack."""

import re

import pytest

from harness import Stack, eventually
from stack.services import Service, new_services
from stack.trace import Span, children, roots


@pytest.mark.parametrize("service", new_services(), ids=lambda service: service.name)
def test_what_it_does_with_a_reading_is_part_of_the_readings_trace(stack: Stack, service: Service) -> None:
    # The trace meets the contract, which ignores new services.
    done = stack.run("verify")
    assert done.returncode == 0, done.stdout + done.stderr
    (trace_id,) = re.findall(r"One reading, one trace: \S+/([0-9a-f]{32})", done.stdout)

    def sent() -> list[tuple[Span, Span, Span]]:
        spans = stack.viewer.trace(trace_id)
        return [
            (publish, process, outgoing)
            for publish in roots(spans)
            for process in children(spans, publish)
            for outgoing in children(spans, process)
            if process.service == service.name
        ]

    ((publish, process, outgoing),) = eventually(sent)
    assert (publish.kind, publish.service) == ("Producer", "producer")
    assert (process.name, process.kind) == (publish.name.replace("publish", "process"), "Consumer")
    assert "mqtt.missing_context" not in process.attributes
    assert (outgoing.kind in ("Client", "Producer"), outgoing.service) == (True, service.name)
    assert {process.status, outgoing.status} <= {"Unset", "Ok"}
