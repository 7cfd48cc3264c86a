"""A certificate authority on the laptop, for TLS to the broker."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography.x509 import load_pem_x509_certificate

# How a client on this machine, and one in a container, calls the broker.
NAMES = ("localhost", "127.0.0.1", "mosquitto")
LIFETIME = timedelta(days=365)
RENEWED_BEFORE_END = timedelta(days=30)


def prepare(folder: Path) -> bool:
    """Makes ``ca.crt``, ``server.crt`` and ``server.key``, unless they are there and good for a while.

    Returns:
        Whether they were made.
    """
    files = [folder / name for name in ("ca.crt", "server.key", "server.crt")]
    now = datetime.now(UTC)
    if all(file.exists() for file in files) and _end(files[-1]) - now > RENEWED_BEFORE_END:
        return False
    # Its key stays in memory and goes with it: there is none to steal.
    authority = trustme.CA(organization_name="mqtt-tracing", organization_unit_name="made on this machine")
    server = authority.issue_cert(*NAMES, not_after=now + LIFETIME)
    folder.mkdir(parents=True, exist_ok=True)
    # The certificate that is looked at above comes last: half a set is made again.
    _write(files[0], authority.cert_pem.bytes(), 0o644)
    _write(files[1], server.private_key_pem.bytes(), 0o600)
    _write(files[2], b"".join(blob.bytes() for blob in server.cert_chain_pems), 0o644)
    return True


def _end(certificate: Path) -> datetime:
    return load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc


def _write(file: Path, content: bytes, mode: int) -> None:
    # Renamed, so that nobody reads half a file, and with its mode from the first byte.
    partial = file.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    with open(partial, "xb", opener=lambda path, flags: os.open(path, flags, mode)) as opened:
        os.fchmod(opened.fileno(), mode)
        opened.write(content)
    partial.rename(file)
