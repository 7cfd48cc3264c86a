"""Makes the certificates in a folder."""

import argparse
from pathlib import Path

from certificates import prepare, prepare_devices


def main() -> None:
    """Makes the certificates and prints which were made or kept."""
    parser = argparse.ArgumentParser(
        prog="certificates", description="Makes the certificates of the broker and of devices."
    )
    parser.add_argument("folder", type=Path, help="where they are kept")
    parser.add_argument("--devices", default="", help="names of devices, with commas between")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    names = [name.strip() for name in arguments.devices.split(",") if name.strip()]
    print(f"certificates in {folder}: {'made' if prepare(folder) else 'kept'}")  # noqa: T201 (its output)
    print(f"devices: {', '.join(prepare_devices(folder / 'devices', names)) or 'none'} made")  # noqa: T201 (its output)


if __name__ == "__main__":
    main()
