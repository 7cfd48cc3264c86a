"""Makes the certificates in a folder."""

import argparse
from pathlib import Path

from certificates import prepare


def main() -> None:
    """Makes them, or says that they are there."""
    parser = argparse.ArgumentParser(
        prog="certificates", description="Makes an authority and the broker's certificate."
    )
    parser.add_argument("folder", type=Path, help="where they are kept")
    folder: Path = parser.parse_args().folder
    print(f"certificates in {folder}: {'made' if prepare(folder) else 'kept'}")  # noqa: T201 (its output)


if __name__ == "__main__":
    main()
