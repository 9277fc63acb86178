"""`python -m tests.chaos --moments 200 --seed 1 [--minutes 30]`: kill -9 at random moments of scripted rollouts, from the root.

Each life is a fresh product (`canaryproxy run`, two workers, two origins, users at 120 requests/s) and a script of operators
(`script.SCRIPTS`). While the script goes on, one to four kills come (`aim.AIMS`): supervisor, controller, a worker or all of
them, at any time, microseconds after a verb was sent, when the write-ahead log has just changed, in a hand-over, a reload or a
start. What ended is started again. After each kill, and at the end, everything in `invariants.ALWAYS` must hold; then the product
is stopped and every rollout's story is replayed from its state file (`canaryproxy decisions --replay --state`).

Status 1, and the life's story with its folder (state file, configuration), where an invariant is broken; `--seed` and `--life`
begin the same one again (the moments fall a little differently: these are real processes). At the end: kills by victim and by
aim, rollouts, what each invariant has checked. `--disks`: disks that are full, read-only or spoilt (`stories`).

To extend: an action (`script.verb`, or your own `async def action(life)`) into a script, a script into `SCRIPTS`, an aim into
`AIMS`, an invariant into `ALWAYS`. They see all of the life: what was told and answered, the records by time, every request.
`life.product` is the system tests' `Product`: change `live`'s `configure` for hooks, gates or more routes.
The product is run from this tree: do not edit the tree while it runs.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from harness import Product
from origins import Origin

from canaryproxy.store.sqlite import SqliteStore

from .aim import AIMS
from .invariants import ALWAYS, BrokenError, records
from .killer import Killer
from .life import ROLLOUT, Life
from .record import Watcher
from .script import SCRIPTS, play
from .stories import tell


class Tally:
    """What a run has done."""

    def __init__(self) -> None:
        self.lives = self.rollouts = self.replayed = 0
        self.victims: Counter[str] = Counter()
        self.aims: Counter[str] = Counter()
        self.checked: Counter[str] = Counter()

    @property
    def kills(self) -> int:
        """How many moments so far."""
        return self.victims.total()

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"{self.kills} kills in {self.lives} lives, {self.rollouts} rollouts, {self.replayed} replayed the same",
            f"victims: {_counts(self.victims)}",
            f"aims: {_counts(self.aims)}",
            f"checked: {_counts(self.checked)}",
        ]


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counter.most_common())


async def live(seed: int, folder: Path, killer: Killer, tally: Tally, *, script: str | None = None, kills: int = 0) -> Life:
    """One life, from its start to its replay. Raises BrokenError, or AssertionError where it does not come back.

    Its story is in the folder then.
    """
    chance = random.Random(seed)
    product = Product(folder)
    for origin in product.origins.values():
        await origin.start()
    product.configure({"rollout": ROLLOUT})
    for version in ("v3", "v4"):  # to be deployed
        product.origins[version] = Origin(version)
        await product.origins[version].start()
    name = script or chance.choices(list(SCRIPTS), [often for _, often in SCRIPTS.values()])[0]
    life: Life | None = None
    try:
        await product.start()
        with Watcher(product.state) as watcher:
            async with product.traffic(rate=120, keep=6, fresh=2, users=400) as traffic:
                life = Life(product, chance, killer, watcher, traffic, name)
                life.up.set()
                await _befall(life, tally, kills or chance.randint(1, 4))
                await asyncio.sleep(0.3)
            _check(life, tally)
        await product.stop()
        await _replay(life, tally)
        tally.lives += 1
        tally.rollouts += len({record.salt for record in records(life) if record.phase != "idle"})
        return life
    except BaseException:
        (folder / "story").write_text("\n".join(story(life) if life else product.log))
        raise
    finally:
        product.destroy()
        for origin in product.origins.values():
            await origin.stop()


async def _befall(life: Life, tally: Tally, kills: int) -> None:
    """The script, and kills while it goes on."""
    chance = life.random
    playing = asyncio.create_task(play(life, SCRIPTS[life.name][0](chance)))
    try:
        for _ in range(kills):
            await asyncio.sleep(chance.uniform(0, 2))
            aim, _ = AIMS[chance.choices(list(AIMS), [often for _, often in AIMS.values()])[0]]
            known = len(life.strikes)
            await aim(life)
            for strike in life.strikes[known:]:
                tally.victims[strike.victim] += 1
                tally.aims[strike.aim.partition(" after")[0]] += strike.aimed
            await asyncio.sleep(0.2)
            _check(life, tally)
        await playing
    finally:
        playing.cancel()
        await life.disk.aclose()


def _check(life: Life, tally: Tally) -> None:
    for invariant in ALWAYS:
        tally.checked[invariant.__name__] += invariant(life)


async def _replay(life: Life, tally: Tally) -> None:
    """Every rollout of which there is a journal."""
    with closing(SqliteStore(life.product.state, read_only=True)) as store:
        rollouts = store.rollouts("shop")
    for rollout in rollouts:
        words = ("decisions", "--replay", "--state", str(life.product.state), "--rollout", rollout)
        code, out, complaints = await life.product.cli(*words)
        if code != 0 or (complaints and not life.unwritten):
            raise BrokenError(f"the replay of {rollout} is not the same: {out}{complaints}")
        tally.replayed += 1


def story(life: Life) -> list[str]:
    """What happened in a life, in its order."""
    looks = life.watcher.since(0.0)
    begun = min([life.traffic.requests[0].began, *(look.first for look in looks)]) if life.traffic.requests else 0.0
    events: list[tuple[float, str]] = [(look.first, f"disk    {look.record}") for look in looks]
    for told in life.told:
        said = told.answer and {name: told.answer[name] for name in ("phase", "weight_percent", "saved")}
        events.append(
            (
                told.sent,
                f"told    {told.verb}: {'refused' if told.refused else said or 'no answer'} at {told.answered - begun:.3f}",
            )
        )
    events += [(s.at, f"KILL    {s.victim} ({s.aim}), again at {s.again - begun:.3f}") for s in life.strikes]
    events += [(r.ended, f"failed  {r}") for r in life.traffic.failures if r.status != 500]
    return [f"{at - begun:8.3f}  {what}" for at, what in sorted(events)] + [f"log     {line}" for line in life.product.log]


async def run(moments: int, seed: int, minutes: float, scripts: list[str] | None, place: Path) -> int:
    """Lives until there were so many kills, or the time is up; how many of them broke an invariant."""
    tally, broken, number = Tally(), 0, seed
    end = time.monotonic() + minutes * 60
    with Killer() as killer:
        while tally.kills < moments and time.monotonic() < end:
            folder = place / f"life-{number}"
            folder.mkdir()
            chosen = scripts[number % len(scripts)] if scripts else None
            began = time.monotonic()
            try:
                await live(number, folder, killer, tally, script=chosen)
                shutil.rmtree(folder)
                print(f"life {number}: {tally.kills} kills, {time.monotonic() - began:.1f} s", flush=True)
            except Exception as error:  # whatever it is, it is looked at
                broken += 1
                print(f"life {number} is BROKEN, see {folder}: {error}", flush=True)
                (folder / "error").write_text("".join(traceback.format_exception(error)))
            number += 1
    print("\n".join([*tally.lines(), f"broken: {broken}"]), flush=True)
    return broken


def main() -> int:
    """Status 1 if an invariant is broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="kill canaryproxy at random moments")
    parser.add_argument("--moments", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--script", choices=list(SCRIPTS), action="append", help="all of them without this")
    parser.add_argument("--disks", action="store_true", help="instead: disks that are full, read-only or spoilt")
    options: Any = parser.parse_args()
    if options.disks:
        return 1 if asyncio.run(tell()) else 0
    place = Path(tempfile.mkdtemp(prefix="chaos-"))
    broken = asyncio.run(run(options.moments, options.seed * 1000, options.minutes, options.script, place))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
