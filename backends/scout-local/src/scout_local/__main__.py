"""Serves the issuer."""

import logging
import signal

import uvicorn

from scout_local.app import create_app
from scout_local.settings import Settings
from service import load_settings


def main() -> None:
    """Serves until SIGTERM."""
    settings = load_settings(Settings)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # uvicorn raises the signal again once it has stopped; an ordinary stop is no failure.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    uvicorn.run(create_app(settings), host=settings.issuer_host, port=settings.issuer_port, log_config=None)


if __name__ == "__main__":
    main()
