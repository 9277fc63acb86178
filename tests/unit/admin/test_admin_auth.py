"""The token file, and who counts as this endpoint."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from canaryproxy.admin.auth import bearer, is_own_host, is_own_origin, load_token
from canaryproxy.config.quantities import Address
from canaryproxy.errors import StartError


def test_a_token_is_made_once_for_this_user_only(tmp_path: Path) -> None:
    path = tmp_path / "token"
    token = load_token(path)
    assert len(token) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_token(path) == token


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_token_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "token"
    load_token(path)
    path.chmod(mode)
    with pytest.raises(StartError, match=rf"can be read by others \(mode {mode:04o}\); run: chmod 600 {path}"):
        load_token(path)


def test_a_token_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, stranger, fstat = tmp_path / "token", os.geteuid() + 1, os.fstat
    token = load_token(path)

    def owned_by(uid: int) -> None:
        monkeypatch.setattr(os, "fstat", lambda file: os.stat_result([*fstat(file)[:4], uid, *fstat(file)[5:]]))

    owned_by(0)
    assert load_token(path) == token
    owned_by(stranger)
    with pytest.raises(StartError, match=rf"belongs to another user \(uid {stranger}\), who knows the token; run: chown"):
        load_token(path)


def test_a_token_file_that_is_of_no_use_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    os.close(os.open(empty, os.O_CREAT | os.O_WRONLY, 0o600))
    with pytest.raises(StartError, match="is empty; remove it"):
        load_token(empty)
    with pytest.raises(StartError, match=r"cannot be made \(No such file or directory\)"):
        load_token(tmp_path / "nowhere" / "token")
    with pytest.raises(StartError, match=r"cannot be read \(Is a directory\)"):
        load_token(tmp_path)


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        *((good, "s3cret") for good in ("Bearer s3cret", "bearer  s3cret")),
        *((bad, "") for bad in ("s3cret", "Basic s3cret", "", "Bearer ")),
    ],
)
def test_authorization(field: str, expected: str) -> None:
    assert bearer(field) == expected


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9900", "127.0.0.1:9900", "[::1]:9900", "[::1]", "127.0.0.2:9900"])
def test_own_hosts_on_loopback(host: str) -> None:
    assert is_own_host(host, Address("127.0.0.2", 9900))


@pytest.mark.parametrize("host", ["", "evil.example", "evil.example:9900", "localhost.evil.example", "127.0.0.1.evil.example:1"])
def test_foreign_hosts_on_loopback(host: str) -> None:
    assert not is_own_host(host, Address("127.0.0.1", 9900))
    assert not is_own_host(host, Address("::1", 9900))
    assert is_own_host(host, Address("0.0.0.0", 9900))


def test_own_origin() -> None:
    assert is_own_origin(None, "localhost:9900")
    assert is_own_origin("http://localhost:9900", "localhost:9900")
    assert not is_own_origin("http://evil.example", "localhost:9900")
    assert not is_own_origin("http://localhost:3000", "localhost:9900")
    assert not is_own_origin("null", "localhost:9900")
