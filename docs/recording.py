"""Records ``make verify`` as an animated picture, with the stack up; an argument names another folder.

The lines are those of a real run, and appear when they appeared there, but nobody waits longer than ``IDLE`` for one.
rich draws the terminal; what moves is CSS.
"""

import io
import os
import subprocess
import sys
import time
from itertools import accumulate
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
COMMAND = "make verify"
COLUMNS = 92
# Seconds: until the command is typed, for each of its letters, at most between two lines, and after the last one.
BEFORE, LETTER, IDLE, AFTER = 0.5, 0.09, 2.0, 8.0
# As rich has it, without its frame of a window, its title, and its fonts from elsewhere, which a picture cannot load.
PICTURE = """\
<svg class="rich-terminal" viewBox="0 0 {terminal_width} {terminal_height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
    font: {char_height}px/{line_height}px Menlo, Consolas, "DejaVu Sans Mono", monospace;
}}
{styles}
</style>
<defs>{lines}</defs>
<rect width="{terminal_width}" height="{terminal_height}" rx="8" fill="#292929"/>
{backgrounds}
<g class="{unique_id}-matrix" transform="translate(9, 4)">
{matrix}
</g>
</svg>
"""


def record() -> list[tuple[float, str]]:
    """Runs the command; returns each line of its output, and the seconds since the one before.

    Raises:
        SystemExit: If the command fails.
    """
    environment = os.environ | {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
    lines = list[tuple[float, str]]()
    last = time.monotonic()
    with subprocess.Popen(COMMAND.split(), cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # noqa: S101 (it is a pipe)
        for line in process.stdout:
            lines.append((time.monotonic() - last, line.rstrip("\n")))
            last = time.monotonic()
    if process.returncode != 0:
        raise SystemExit(f"{COMMAND} failed, with exit code {process.returncode}")
    return lines


def draw(lines: list[tuple[float, str]]) -> str:
    """The animated picture: SVG."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.assemble(("$ ", "green"), (COMMAND, "bold")))
    for _, line in lines:
        console.print(Text.from_ansi(line), soft_wrap=True)
    console.print()  # rich leaves no room for the last line
    picture = console.export_svg(code_format=PICTURE, unique_id="verify")
    return picture.replace("</style>", _animation([seconds for seconds, _ in lines]) + "</style>")


def _animation(pauses: list[float]) -> str:
    times = list(accumulate(min(seconds, IDLE) for seconds in pauses))
    entered = BEFORE + LETTER * len(COMMAND)
    whole = entered + times[-1] + AFTER
    hidden = f"clip-path: inset(0 100% 0 0); animation-timing-function: steps({len(COMMAND)})"
    begun, ended = 100 * BEFORE / whole, 100 * entered / whole
    rules = [
        f"@keyframes typing {{ 0%, {begun:.2f}% {{ {hidden} }} {ended:.2f}%, 100% {{ clip-path: inset(0) }} }}",
        f'text[clip-path$="-line-0)"]:nth-of-type(2) {{ animation: typing {whole:.2f}s infinite }}',
    ]
    for number, seconds in enumerate(times, 1):
        at = 100 * (entered + seconds) / whole
        shown = f"{at + 0.01:.2f}%, 100% {{ opacity: 1 }}"
        rules.append(f"@keyframes line{number} {{ 0%, {at:.2f}% {{ opacity: 0 }} {shown} }}")
        rules.append(f'text[clip-path$="-line-{number})"] {{ animation: line{number} {whole:.2f}s infinite }}')
    rules.append("@media (prefers-reduced-motion: reduce) { text { animation: none !important } }")
    return "\n".join(rules) + "\n"


def main() -> None:
    """Records it, and writes the picture."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures"
    (folder / "verify.svg").write_text(draw(record()))


if __name__ == "__main__":
    main()
