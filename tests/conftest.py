"""Fixtures for the whole suite."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hook_receiver import Receiver

_PROGRAM_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))  # Debian keeps servers in sbin


@pytest.fixture(scope="session")
def peer() -> Callable[[str], Path]:
    """Return `peer("nginx")`: the path of a program the tests compare with. Missing: the test skips, but fails in CI."""

    def find(program: str) -> Path:
        found = shutil.which(program, path=_PROGRAM_PATH)
        if found is None:
            message = f"{program}: not installed; `apt-get install {program}`"
            if os.environ.get("CI") == "true":
                pytest.fail(f"{message} (in CI no comparison is skipped)")
            pytest.skip(message)
        return Path(found)

    return find


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """Whom hooks ask and tell."""
    made = Receiver()
    await made.start()
    yield made
    await made.stop()
