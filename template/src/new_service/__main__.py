"""``make new-service``."""

import argparse

from new_service import new_service
from stack.console import exit_code


def main() -> None:
    """Makes the service that the arguments describe."""
    parser = argparse.ArgumentParser(prog="new_service", description=__doc__)
    parser.add_argument("name")
    for answer in ("output", "topic-filter", "url", "output-topic"):
        parser.add_argument(f"--{answer}")
    answers = vars(parser.parse_args())
    new_service(answers.pop("name"), {name: value for name, value in answers.items() if value})


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
