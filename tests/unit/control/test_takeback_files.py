"""What lies beside the state is not always a rollback that somebody may ask for."""

from __future__ import annotations

import os
from pathlib import Path

from canaryproxy.control.takeback import Takeback, read_takebacks, write_takeback


def test_a_reason_past_the_admin_api_is_cleaned(tmp_path: Path) -> None:
    write_takeback(tmp_path / "state.db", Takeback("shop", "caf\udce9\nforged", "me", 1.0))
    assert [one.reason for one in read_takebacks(tmp_path / "state.db", heard=True)] == ["caf forged"]


def test_what_is_no_file_is_no_rollback(tmp_path: Path) -> None:
    os.symlink("/nowhere", tmp_path / "state.db.rollback-a")
    os.mkdir(tmp_path / "state.db.rollback-b")
    assert read_takebacks(tmp_path / "state.db", heard=True) == []
