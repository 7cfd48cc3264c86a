"""The tree of a trace fits its terminal, whatever is in the trace."""

from dataclasses import replace
from io import StringIO

import pytest
from rich.cells import cell_len
from rich.console import Console

from stack.trace import Span
from stack.tree import tree

TRACE_ID = "a" * 32
LONG_TOPIC = "sensors/" + "0123456789abcdef" * 4000 + "/reading"


def span(number: int, name: str, **values: object) -> Span:
    given = Span(
        trace_id=TRACE_ID,
        span_id=f"{number:016x}",
        parent_id=f"{number - 1:016x}" if number > 1 else None,
        name=name,
        kind="Consumer",
        service="consumer",
        start=number,
        end=number + 1_500_000,
        attributes={},
        resource={},
    )
    return replace(given, **values)


def drawn(spans: list[Span], width: int = 80) -> list[str]:
    output = StringIO()
    Console(file=output, width=width, highlight=False).print(tree(spans))
    return output.getvalue().splitlines()


def test_a_span_is_a_line_with_its_name_kind_service_and_duration() -> None:
    assert drawn([span(1, "publish a", kind="Producer", service="producer"), span(2, "process a")]) == [
        f"trace {TRACE_ID}",
        "└── publish a  PRODUCER producer 1.5 ms",
        "    └── process a  CONSUMER consumer 1.5 ms",
    ]


def test_what_is_out_of_the_ordinary_stands_below_its_span() -> None:
    attributes = {
        "mqtt.missing_context": True,
        "mqtt.missing_context_reason": "invalid",
        "messaging.mqtt.qos": 1,
        "error.type": "422",
    }
    links = ((TRACE_ID, "b" * 16), *((f"{number:032x}", "b" * 16) for number in range(7)))
    root = span(1, "process a", attributes=attributes, status="Error", status_message="answered 422", links=links)
    lines = [line.strip(" │") for line in drawn([root, span(2, "POST")])]
    assert lines == [
        f"trace {TRACE_ID}",
        "└── process a  CONSUMER consumer 1.5 ms",
        "error 422: answered 422",
        "mqtt.missing_context=true mqtt.missing_context_reason=invalid",
        *(f"link to trace {number:032x}" for number in range(5)),
        "and 2 more links",
        "└── POST  CONSUMER consumer 1.5 ms",
    ]


def test_a_span_without_its_parent_says_so() -> None:
    assert drawn([span(2, "POST")])[1:] == [
        "└── its parent 0000000000000001 is not in the backend (yet)",
        "    └── POST  CONSUMER consumer 1.5 ms",
    ]


@pytest.mark.parametrize("width", [80, 40])
@pytest.mark.parametrize(
    "values",
    [
        {"name": f"process {LONG_TOPIC}"},
        {"name": "process sensors/" + "温度" * 2000},
        {"service": "s" * 300},
        {"attributes": {"messaging.mqtt.dead_letter": LONG_TOPIC}},
        {"status": "Error", "status_message": "x" * 5000},
        {"status": "Error", "status_message": "a line\n" * 500},
    ],
    ids=["topic", "wide letters", "service", "attribute", "message", "lines"],
)
def test_no_line_is_wider_than_the_terminal_and_no_span_longer_than_a_few(
    width: int, values: dict[str, object]
) -> None:
    chain = [span(number, "process a") for number in range(1, 5)]
    lines = drawn([*chain, replace(span(5, "process a"), **values)], width)
    assert max(map(cell_len, lines)) <= width
    assert len(lines) <= 4 + 20
    # Both ends of a long name can still be read.
    name = str(values.get("name", ""))
    assert all(word[-4:] in "".join(lines) for word in name.split("/"))


def test_nothing_in_a_trace_reaches_the_terminal_as_a_command() -> None:
    bad = "\x1b[31m\x1b]0;title\x07\r\n"
    attributes = {"error.type": bad, "messaging.mqtt.dead_letter": bad, "mqtt.missing_context_reason": bad}
    lines = drawn([span(1, bad, service=bad, status="Error", status_message=bad, attributes=attributes)])
    assert all(line.isprintable() for line in lines), lines
