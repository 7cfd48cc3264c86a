"""Puts pieces of the stack's own files into the pages: ``make docs`` runs it through cog.

A piece is asked for by its name and never by line numbers, so that it is found again wherever it moves to; a name that
is gone ends ``make docs`` and ``make lint`` with an error.
"""

import ast
import os
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


class NotThereError(Exception):
    """A piece that a page asks for is not in the file."""


def python(path: str, name: str = "") -> None:
    """Prints a whole Python file, or the function, class or constant of this name.

    Args:
        path: The file, from the repository's root.
        name: Such as ``function``, ``Class.method`` or ``CONSTANT``; empty for the whole file.

    Raises:
        NotThereError: If the file has no such name.
    """
    _print(path, "python", python_source(path, name), name)


def statement(path: str, function: str, start: str) -> None:
    """Prints the first statement of a function that starts with a text.

    Args:
        path: The file, from the repository's root.
        function: The function's name, or ``Class.method``.
        start: How the statement starts.

    Raises:
        NotThereError: If there is no such function or statement.
    """
    _print(path, "python", statement_source(path, function, start), function)


def yaml_block(path: str, *keys: str) -> None:
    """Prints a whole YAML file, or one of its keys with its value and the comment above it.

    Args:
        path: The file, from the repository's root.
        keys: The way to the key, from the outermost to it; none for the whole file.

    Raises:
        NotThereError: If the file has no such key.
    """
    _print(path, "yaml", yaml_source(path, keys), " → ".join(keys))


def for_the_operator(path: str) -> None:
    """Prints the Collector's configuration without the variables that choose ports and lists.

    The OpenTelemetry Operator reads the ports from it, and its schema wants lists.
    """
    text = (ROOT / path).read_text().replace("${env:COLLECTOR_BIND:-127.0.0.1}", "0.0.0.0")  # noqa: S104 (in a pod)
    sys.modules["cog"].out(re.sub(r"\$\{env:[A-Z_]+:-(\d+|\[.*?\])\}", r"\1", text))


def python_source(path: str, name: str) -> str:
    """The text of what ``python`` prints."""
    text = (ROOT / path).read_text()
    return _lines(text, _definition(path, ast.parse(text), name)) if name else text


def statement_source(path: str, function: str, start: str) -> str:
    """The text of what ``statement`` prints."""
    text = (ROOT / path).read_text()
    for node in ast.walk(_definition(path, ast.parse(text), function)):
        if isinstance(node, ast.stmt) and (ast.get_source_segment(text, node) or "").startswith(start):
            return _lines(text, node)
    raise NotThereError(f"{path}: no statement of {function} starts with {start}")


def yaml_source(path: str, keys: Sequence[str]) -> str:
    """The text of what ``yaml_block`` prints."""
    text = (ROOT / path).read_text()
    lines = text.splitlines()
    first, end = 0, len(lines)
    node = yaml.compose(text)
    for name in keys:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        found = next(((key, value) for key, value in pairs if key.value == name), None)
        if found is None:
            raise NotThereError(f"{path}: no key {name} in {' → '.join(keys)}")
        key, node = found
        first = key.start_mark.line
        # A block ends where the next key starts, everything else on its own last line.
        block = isinstance(node, yaml.CollectionNode) and not node.flow_style
        end = node.end_mark.line + (not block)
    # The comment above the next key has to go; that above this one belongs to it.
    while lines[end - 1].strip().startswith("#") or not lines[end - 1].strip():
        end -= 1
    while keys and first > 0 and lines[first - 1].strip().startswith("#"):
        first -= 1
    return textwrap.dedent("\n".join(lines[first:end]))


def _definition(path: str, tree: ast.Module, name: str) -> ast.AST:
    node: ast.AST = tree
    for part in name.split("."):
        children = ast.iter_child_nodes(node)
        found = next((child for child in children if part in _names(child)), None)
        if found is None:
            raise NotThereError(f"{path}: nothing is called {name}")
        node = found
    return node


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    targets = node.targets if isinstance(node, ast.Assign) else []
    yield from (target.id for target in targets if isinstance(target, ast.Name))


def _lines(text: str, node: ast.AST) -> str:
    assert isinstance(node, ast.stmt)  # noqa: S101 (names belong to statements)
    decorators = node.decorator_list if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
    first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
    return textwrap.dedent("\n".join(text.splitlines()[first - 1 : node.end_lineno]))


def _print(path: str, language: str, source: str, name: str) -> None:
    """Prints a fenced block, and where it is from, as seen from the page that cog is writing."""
    cog = sys.modules["cog"]
    page = ROOT / cog.inFile
    link = os.path.relpath(ROOT / path, page.parent)
    where = f", `{name}`" if name else ""
    cog.out(f"\n[`{'/'.join(Path(path).parts[-2:])}`]({link}){where}:\n\n```{language}\n{source.rstrip()}\n```\n\n")
