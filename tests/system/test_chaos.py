"""The short form of `python -m tests.chaos`: the same scripts, seeds and aims each time, a handful of kills; and spoilt disks."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos.__main__ import Tally, live
from chaos.disks import FORGETFUL, HOPELESS
from chaos.killer import Killer
from chaos.stories import ends_with_a_word, nothing_is_lost, product_in, rolled_back_and_killed, starts_nothing_by_itself
from harness import Product

pytestmark = pytest.mark.system


async def test_kills_at_a_handful_of_moments(tmp_path: Path) -> None:
    tally = Tally()
    with Killer() as killer:
        await live(5, tmp_path, killer, tally, script="no_room", kills=2)
    assert tally.kills >= 2
    assert tally.replayed > 0
    assert tally.checked["no_more_than_recorded"] > 100


async def test_a_rollback_on_a_full_disk_outlives_a_kill_of_everything(product: Product) -> None:
    await product.start()
    await product.verb("start")
    async with product.full_disk():
        await nothing_is_lost(product)
    await product.start()
    status = await product.status()
    assert (status["phase"], status["weight_percent"]) == ("rolled_back", 0)
    assert "a rollback is never undone by a restart" in status["reason"]


async def test_a_spoilt_state_never_starts_a_canary_that_was_rolled_back(tmp_path: Path) -> None:
    async with product_in(tmp_path, auto_start=True) as product:
        kept = await rolled_back_and_killed(product)
        assert "is damaged" in await ends_with_a_word(product, kept, HOPELESS["one page"])
        assert "its record is lost" in await starts_nothing_by_itself(product, kept, FORGETFUL["emptied"])
