import stat
from datetime import timedelta
from pathlib import Path

import pytest

import certificates


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_they_are_made_once_and_kept(tmp_path: Path) -> None:
    assert certificates.prepare(tmp_path)
    made = contents(tmp_path)
    assert set(made) == {"ca.crt", "server.crt", "server.key"}
    assert stat.S_IMODE((tmp_path / "server.key").stat().st_mode) == 0o600
    assert not certificates.prepare(tmp_path)
    assert contents(tmp_path) == made


def test_they_are_renewed_before_they_expire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(certificates, "LIFETIME", timedelta(days=29))
        certificates.prepare(tmp_path)
    old = contents(tmp_path)
    assert certificates.prepare(tmp_path)
    assert contents(tmp_path)["server.crt"] != old["server.crt"]
    assert not certificates.prepare(tmp_path)


def test_half_a_set_is_made_again(tmp_path: Path) -> None:
    certificates.prepare(tmp_path)
    (tmp_path / "server.key").unlink()
    assert certificates.prepare(tmp_path)


def test_a_device_is_added_without_a_change_to_the_others(tmp_path: Path) -> None:
    assert certificates.prepare_devices(tmp_path, ["pump-1"]) == ["pump-1"]
    before = contents(tmp_path)
    assert certificates.prepare_devices(tmp_path, ["pump-1", "pump-2"]) == ["pump-2"]
    after = contents(tmp_path)
    assert after["pump-1.pem"] == before["pump-1.pem"]
    assert after["authorities.crt"].startswith(before["authorities.crt"])
    assert certificates.prepare_devices(tmp_path, ["pump-1", "pump-2"]) == []
    assert stat.S_IMODE((tmp_path / "pump-1.pem").stat().st_mode) == 0o640


def test_the_former_authority_is_kept_when_a_device_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(certificates, "LIFETIME", timedelta(days=29))
        certificates.prepare_devices(tmp_path, ["pump-1"])
    old = contents(tmp_path)
    assert certificates.prepare_devices(tmp_path, ["pump-1"]) == ["pump-1"]
    new = contents(tmp_path)
    assert new["pump-1.pem"] != old["pump-1.pem"]
    assert new["authorities.crt"].startswith(old["authorities.crt"])
    assert new["authorities.crt"] != old["authorities.crt"]
