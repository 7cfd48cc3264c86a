"""Certificate authorities on a laptop, for TLS to the broker and for devices that log in with a certificate."""

import os
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography.x509 import load_pem_x509_certificate

# The names by which clients on this machine and in containers reach the broker.
NAMES = ("localhost", "127.0.0.1", "mosquitto")
LIFETIME = timedelta(days=365)
RENEWED_BEFORE_END = timedelta(days=30)


def prepare(folder: Path) -> bool:
    """Makes ``ca.crt``, ``server.crt`` and ``server.key``, unless they exist and do not expire soon.

    Returns:
        True if they were made.
    """
    files = [folder / name for name in ("ca.crt", "server.key", "server.crt")]
    now = datetime.now(UTC)
    if all(file.exists() for file in files) and _is_good(files[-1], now):
        return False
    authority = _new_authority()
    server = authority.issue_cert(*NAMES, not_after=now + LIFETIME)
    folder.mkdir(parents=True, exist_ok=True)
    # The certificate is written last, because the check above looks at it: an incomplete set is made again.
    _write(files[0], authority.cert_pem.bytes(), 0o644)
    _write(files[1], server.private_key_pem.bytes(), 0o600)
    _write(files[2], b"".join(blob.bytes() for blob in server.cert_chain_pems), 0o644)
    return True


def prepare_devices(folder: Path, names: Iterable[str]) -> list[str]:
    """Makes ``NAME.pem``, the key and the certificate of each device, unless it exists and does not expire soon.

    ``authorities.crt`` has the authorities that issued them, including former ones: a device whose certificate was
    renewed can still connect with the old one until that expires.

    Args:
        folder: The folder for the certificates.
        names: The devices' user names at the broker, which are the common names of their certificates.

    Returns:
        The names of the devices whose certificates were made.
    """
    now = datetime.now(UTC)
    folder.mkdir(parents=True, exist_ok=True)
    due = [name for name in names if not (file := folder / f"{name}.pem").exists() or not _is_good(file, now)]
    authorities = folder / "authorities.crt"
    if due:
        authority = _new_authority()
        former = authorities.read_bytes() if authorities.exists() else b""
        _write(authorities, former + authority.cert_pem.bytes(), 0o644)
        for name in due:
            device = authority.issue_cert(common_name=name, not_after=now + LIFETIME)
            # Readable by the group of the producer's container, which simulates a device.
            _write(folder / f"{name}.pem", device.private_key_and_cert_chain_pem.bytes(), 0o640)
    return due


def _new_authority() -> trustme.CA:
    # The key stays in memory only, so that nobody can steal it.
    return trustme.CA(organization_name="mqtt-tracing", organization_unit_name="made on this machine")


def _is_good(certificate: Path, now: datetime) -> bool:
    return load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc - now > RENEWED_BEFORE_END


def _write(file: Path, content: bytes, mode: int) -> None:
    # Written elsewhere and renamed, so that nobody reads half a file; created with its mode, so it is never too open.
    partial = file.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    with open(partial, "xb", opener=lambda path, flags: os.open(path, flags, mode)) as opened:
        os.fchmod(opened.fileno(), mode)
        opened.write(content)
    partial.rename(file)
