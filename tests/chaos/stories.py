"""Stories of disks, each with a fresh product: `python -m tests.chaos --disks` tells all of them, the system tests some.

Each is `async def story(product) -> str`: what was seen, for people; AssertionError where it was not as it has to be.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from harness import Product, until

from .disks import FORGETFUL, HOPELESS, Damage, can_mount, filled, remount, small_disk, truncated

_LONG = {"steps": [{"weight": "20%", "hold": "10m"}]}


@asynccontextmanager
async def product_in(folder: Path, *, auto_start: bool = False) -> AsyncIterator[Product]:
    """A product that does not run yet; destroyed at the end."""
    product = Product(folder)
    for origin in product.origins.values():
        await origin.start()
    product.configure({"rollout": _LONG | {"auto_start": auto_start}})
    try:
        yield product
    finally:
        product.destroy()
        for origin in product.origins.values():
            await origin.stop()


async def rolled_back_and_killed(product: Product) -> Path:
    """A canary that starts by itself was rolled back, all was killed; a folder with the state's files as they are then."""
    await product.start()
    await product.status_with(lambda status: status["phase"] == "progressing")
    await product.verb("rollback")
    await product.until_ticks(2)
    await product.kill()
    return _keep(product)


def _keep(product: Product) -> Path:
    kept = product.folder / "kept"
    kept.mkdir()
    for file in product.folder.glob("state.db*"):
        shutil.copy(file, kept)
    return kept


def _put_back(product: Product, kept: Path) -> None:
    for file in product.folder.glob("state.db*"):
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    for file in kept.iterdir():
        shutil.copy(file, product.folder)


async def begin_again(product: Product, kept: Path, damage: Damage) -> list[str]:
    """Start it on the damaged state; its words until it serves or has ended."""
    _put_back(product, kept)
    damage(product.state)
    product.log.clear()
    product.launch()
    await until(lambda: product.said("serving on") or product.ended, 20)
    if product.ended:
        await product.exit_code()
    return clear(product.log)


def clear(log: list[str]) -> list[str]:
    """The log, all of it lines of the product's own that a person can read."""
    for line in log:
        assert line.startswith("canaryproxy: "), line
        assert len(line) < 600, line
        assert "Traceback" not in line, line
    return log


async def ends_with_a_word(product: Product, kept: Path, damage: Damage) -> str:
    """No start, status 1, one line that says which file, what is wrong, and what to do."""
    (line,) = await begin_again(product, kept, damage)
    assert await product.exit_code() == 1
    assert f"state {product.state}: " in line, line
    assert "; " in line, line
    return line


async def starts_nothing_by_itself(product: Product, kept: Path, damage: Damage) -> str:
    """It serves, says what it does not know any more, and the canary has nobody, although it would start by itself."""
    said = await begin_again(product, kept, damage)
    assert not product.ended, said
    await product.until_ticks(3)
    status = await product.status()
    assert (status["phase"] in ("idle", "rolled_back"), status["weight_percent"]) == (True, 0), status
    assert product.origins["v2"].paths == []
    if status["phase"] == "idle":
        assert any("v2 does not start by itself" in line for line in said), said
    await product.stop()
    return f"{status['phase']}: {status['reason']}"


async def every_damage(folder: Path) -> str:
    """All of `HOPELESS` and `FORGETFUL`, and cut off at places all over the file."""
    async with product_in(folder, auto_start=True) as product:
        kept = await rolled_back_and_killed(product)
        seen = [f"{name}: {await ends_with_a_word(product, kept, damage)}" for name, damage in HOPELESS.items()]
        seen += [f"{name}: {await starts_nothing_by_itself(product, kept, damage)}" for name, damage in FORGETFUL.items()]
        for length in range(512, (kept / "state.db").stat().st_size, 512 * 9):
            await begin_again(product, kept, truncated(length))
            if product.ended:
                seen.append(f"cut off at {length}: {product.log[0]}")
                continue
            await product.until_ticks(2)  # the log has what is missing
            assert (await product.status())["phase"] == "rolled_back"
            await product.stop()
    return "\n".join(seen)


async def nothing_is_lost(product: Product) -> str:
    """On a disk without room: a raise waits, a rollback works at once, and a kill of everything does not undo it."""
    raised = await product.set_weight("90%")
    assert (raised["saved"], raised["applied_by"]) == (False, 2), raised
    async with product.traffic() as traffic:
        await traffic.more(100)
        versions = traffic.versions()
        assert versions["v2"] < versions["v1"], "a share was given that is not on disk"
        began = time.monotonic()
        answer = await product.verb("rollback")
        took = time.monotonic() - began
        assert (answer["phase"], answer["saved"], answer["applied_by"]) == ("rolled_back", False, 2), answer
        since = time.monotonic()
        await traffic.more(50)
        assert traffic.versions(since=since)["v2"] == 0
    assert traffic.failures == []
    assert product.said("not saved: ") == 1
    await product.kill()
    return f"rolled back in {took * 1000:.0f} ms"


async def a_full_disk(folder: Path) -> str:
    """A disk of its own, filled to the last byte: see `nothing_is_lost`; and it starts again while it is full."""
    with small_disk(folder):
        async with product_in(folder) as product:
            await product.start()
            await product.verb("start")
            await product.until_ticks(1)
            with filled(folder):
                seen = await nothing_is_lost(product)
                await product.start()
                assert (await product.status())["phase"] == "rolled_back"
                await product.verb("retry")
                answer = await product.verb("rollback")
                assert answer["phase"] == "rolled_back", answer
            await product.status_with(lambda status: status["saved"])
            await product.stop()
            await product.start()
            assert (await product.status())["phase"] == "rolled_back"
            await product.stop()
            clear(product.log)
    return seen


async def a_read_only_disk(folder: Path) -> str:
    """It cannot start, and says why."""
    with small_disk(folder):
        async with product_in(folder, auto_start=True) as product:
            await rolled_back_and_killed(product)
            remount(folder, "ro")
            product.log.clear()
            product.launch()
            assert await product.exit_code() == 1
            *_, line = clear(product.log)
            assert f"{product.state}.lock: cannot be made" in line, line
    return line


async def overwritten_while_it_runs(folder: Path, end: str = "") -> str:
    """It serves on, a rollback works, it says so, and nobody gets the canary whatever is killed then."""
    async with product_in(folder) as product:
        await product.start()
        await product.verb("start")
        await product.until_ticks(2)
        overwrite(folder / f"state.db{end}")
        async with product.traffic() as traffic:
            answer = await product.verb("rollback")
            assert (answer["phase"], answer["applied_by"]) == ("rolled_back", 2)
            since = time.monotonic()
            controller = await until(lambda: product.controller or 0)
            os.kill(controller, 9)
            await asyncio.sleep(3)
            await traffic.more(50)
            assert traffic.versions(since=since)["v2"] == 0
            assert traffic.failures == []
        await product.kill()
        product.launch()
        await until(lambda: product.said("serving on") > 1 or product.ended, 20)
        if not product.ended:
            assert (await product.status())["phase"] in ("rolled_back", "idle")
        words = [line for line in clear(product.log) if "not saved: " in line or f"state {product.state}: " in line]
        assert words or end, product.log
    return words[0] if words else "served on"


async def its_log_overwritten_while_it_runs(folder: Path) -> str:
    """The same for the write-ahead log."""
    return await overwritten_while_it_runs(folder, "-wal")


async def removed_while_it_runs(folder: Path) -> str:
    """Nothing counts as saved in a file that nobody finds; put back, it is saved."""
    async with product_in(folder) as product:
        await product.start()
        await product.verb("start")
        product.state.rename(folder / "elsewhere")
        answer = await product.verb("rollback")
        assert (answer["phase"], answer["saved"], answer["applied_by"]) == ("rolled_back", False, 2)
        (folder / "elsewhere").rename(product.state)
        await product.until_said("saved again")
        product.state.unlink()
        await product.kill()
        await product.start()
        assert (await product.status())["phase"] == "idle"
        await product.stop()
        return next(line for line in clear(product.log) if "not saved: " in line)


def overwrite(file: Path) -> None:
    """All of it, whoever has it open."""
    with file.open("r+b") as spoilt:
        spoilt.write(random.Random(1).randbytes(file.stat().st_size))


Story = Callable[[Path], Awaitable[str]]
STORIES: dict[str, Story] = {
    story.__name__: story
    for story in (every_damage, overwritten_while_it_runs, its_log_overwritten_while_it_runs, removed_while_it_runs)
}
#: Those that need a disk of their own.
MOUNTED: dict[str, Story] = {story.__name__: story for story in (a_full_disk, a_read_only_disk)}


async def tell() -> int:
    """All of them; how many are not as they have to be."""
    broken = 0
    mounted = MOUNTED if can_mount() else {}
    for name, story in (STORIES | mounted).items():
        folder = Path(tempfile.mkdtemp(prefix="disks-"))
        try:
            print(f"{name}: {await story(folder)}", flush=True)
            shutil.rmtree(folder)
        except AssertionError as error:
            broken += 1
            print(f"{name} is BROKEN, see {folder}: {error}", flush=True)
    for name in MOUNTED.keys() - mounted.keys():
        print(f"{name}: left out, this user may not mount")
    return broken
