"""Serves the issuer."""

import logging

from scout_local.app import create_app
from scout_local.settings import Settings
from service import load_settings
from service.server import serve


def main() -> None:
    """Serves until SIGTERM."""
    settings = load_settings(Settings)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    serve(create_app(settings), settings.issuer_host, settings.issuer_port, settings.issuer_allowed_hosts)


if __name__ == "__main__":
    main()
