"""Only its owner can read the file with the passwords."""

from pathlib import Path

import pytest

from stack.__main__ import keep_private


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_what_others_could_read_is_made_private(tmp_path: Path, mode: int, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / ".env"
    file.write_text("MQTT_PRODUCER_PASSWORD=secret\n")
    file.chmod(mode)
    keep_private(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert capsys.readouterr().out == "Others could read .env, which may hold secrets; it is 0600 now.\n"


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_what_is_private_is_left_alone(tmp_path: Path, mode: int, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / ".env"
    file.touch(mode=mode)
    keep_private(file)
    assert file.stat().st_mode & 0o777 == mode
    keep_private(tmp_path / "nowhere")
    assert capsys.readouterr().out == ""


def test_what_belongs_to_somebody_else_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    file = tmp_path / ".env"
    file.touch(mode=0o644)
    monkeypatch.setattr(Path, "chmod", refuse)
    keep_private(file)
    expected = "Others can read .env, which may hold secrets; its owner should run `chmod 600` on it.\n"
    assert capsys.readouterr().out == expected
