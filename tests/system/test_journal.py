"""Every verdict of a rollout made again from what the proxy has written down, while it runs and when it has been killed."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing

import pytest
from harness import Product

pytestmark = pytest.mark.system


async def test_a_rollback_is_made_again_after_a_kill_in_the_middle(product: Product) -> None:
    await product.start()
    async with product.traffic(keep=14, fresh=4, rate=200) as traffic:
        await product.verb("start")
        await product.until_ticks(8)  # a checkpoint, and ticks after it
        await product.kill()
        await product.start()
        product.origins["v2"].error_share = 0.5
        ended = await product.status_with(lambda status: status["phase"] == "rolled_back", 40)
        assert "failed" in ended["reason"]
        await traffic.more(10)
    code, out, complaints = await product.cli("decisions", "--replay", "--json", "--config", str(product.file))
    assert (code, complaints) == (0, "")
    report = json.loads(out)
    assert report["ticks"] >= 5, "those before the kill are there"
    assert (report["differences"], report["missing"]) == (0, [])
    assert "rollback" in [made["kind"] for made in report["decisions"]]

    await product.kill()
    code, out, complaints = await product.cli("decisions", "shop", "--replay", "--state", str(product.state))
    assert (code, complaints) == (0, "")
    assert f"{report['ticks']} verdicts made again from their counts: all the same as recorded" in out

    await asyncio.to_thread(falsify, product)
    code, _, complaints = await product.cli("decisions", "shop", "--replay", "--state", str(product.state))
    assert code == 1
    assert "sentence was" in complaints


def falsify(product: Product) -> None:
    """Another sentence in the record of the rollback."""
    with closing(sqlite3.connect(product.state)) as state:
        (number, data) = state.execute("SELECT id, data FROM decision WHERE kind = 'rollback'").fetchone()
        record = json.loads(data)
        record["verdict"]["sentence"] = "canary 0/9 failed"
        state.execute("UPDATE decision SET data = ? WHERE id = ?", (json.dumps(record), number))
        state.commit()
