"""The terminal: colour and spinners where there is one, plain lines elsewhere."""

from rich.console import Console

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)
