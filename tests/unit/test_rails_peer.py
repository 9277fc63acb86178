"""The rule for tests that need another program: skip for a developer, fail in CI."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Peer = Callable[[str], Path]


def test_a_program_that_is_there_is_found(peer: Peer) -> None:
    assert peer("sh").name == "sh"


def test_a_missing_program_skips_for_a_developer(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no-such-program: not installed"):
        peer("no-such-program")


def test_a_missing_program_fails_in_ci(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="in CI no comparison is skipped"):
        peer("no-such-program")
