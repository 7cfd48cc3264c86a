"""A trace as a tree in the terminal: one line for each span, and notes below it."""

from collections.abc import Iterator

from rich.text import Text
from rich.tree import Tree

from stack.trace import Span, children, roots

# A topic may have 65,535 bytes, too many to read in a tree.
LONGEST_NAME = 120
LONGEST_MESSAGE = 200
MOST_LINKS = 5
NOTABLE = (
    "mqtt.missing_context",
    "mqtt.missing_context_reason",
    "messaging.mqtt.dead_letter",
    "messaging.mqtt.retain",
    "messaging.mqtt.dup",
)


def tree(spans: list[Span]) -> Tree:
    """The spans of one trace, each below its parent.

    Args:
        spans: All spans of the trace in the backend; at least one.
    """
    top = Tree(Text(f"trace {spans[0].trace_id}"))

    def grow(branch: Tree, span: Span) -> None:
        below = branch.add(Text("\n").join([_line(span), *_details(span)]))
        for child in children(spans, span):
            grow(below, child)

    for root in roots(spans):
        if root.parent_id:
            away = top.add(Text(f"its parent {root.parent_id} is not in the backend (yet)", style="yellow"))
            grow(away, root)
        else:
            grow(top, root)
    return top


def printable(text: str, longest: int) -> str:
    """The text without terminal control characters, shortened in the middle if it is too long."""
    if len(text) > longest:
        text = f"{text[: longest // 2]}…{text[-(longest // 2) :]}"
    return "".join(letter if letter.isprintable() else "�" for letter in text)


def _line(span: Span) -> Text:
    line = Text(f"{printable(span.name, LONGEST_NAME)}  ")
    line.append(f"{span.kind.upper()} {printable(span.service, LONGEST_NAME)} ", style="cyan")
    line.append(f"{span.milliseconds:.1f} ms", style="green" if span.status != "Error" else "red")
    return line


def _details(span: Span) -> Iterator[Text]:
    if span.status == "Error":
        said = ": ".join(filter(None, (str(span.attributes.get("error.type", "")), span.status_message)))
        yield Text(f"error {printable(said, LONGEST_MESSAGE)}".rstrip(), style="red")
    if notes := [f"{name}={_text(span.attributes[name])}" for name in NOTABLE if name in span.attributes]:
        yield Text(" ".join(notes), style="yellow")
    # A process span also has a link to its parent, which the tree shows already.
    elsewhere = [trace_id for trace_id, _ in span.links if trace_id != span.trace_id]
    for trace_id in elsewhere[:MOST_LINKS]:
        yield Text(f"link to trace {trace_id}", style="magenta")
    if len(elsewhere) > MOST_LINKS:
        yield Text(f"and {len(elsewhere) - MOST_LINKS} more links", style="magenta")


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else printable(str(value), LONGEST_NAME)
