"""A controller on a hand-wound clock: a real segment and board, workers that obey, a store that fails or hangs when told."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from canaryproxy.analysis.judge import Judge, JudgeSettings
from canaryproxy.analysis.sample import Tick
from canaryproxy.analysis.verdict import Action, MetricVerdict, Outcome, Verdict
from canaryproxy.clock import ManualClock
from canaryproxy.config.schema import Config
from canaryproxy.control.controller import Answer, Controller
from canaryproxy.control.route import RouteControl
from canaryproxy.errors import StoreError
from canaryproxy.rollout.model import Event, Phase
from canaryproxy.routing.split import seat
from canaryproxy.shared import layout
from canaryproxy.shared.board import AckRow, Board, Split
from canaryproxy.shared.layout import Count
from canaryproxy.shared.ledger import Counters
from canaryproxy.store.base import NO_MAIL, Decision, JournalBlock, JournalEnd, Mail, Message, Saved

ROLLOUT: dict[str, Any] = {
    "steps": [{"weight": "5%", "hold": "60s"}, {"weight": "50%", "hold": "60s"}],
    "bake": "60s",
    "min_requests": 20,
    "i_accept_the_risk": True,
}


def config(**rollout: Any) -> Config:
    """One route `shop` from v1 to v2."""
    return Config.model_validate(
        {
            "pools": {"v1": {"servers": ["http://127.0.0.1:9"]}, "v2": {"servers": ["http://127.0.0.1:10"]}},
            "routes": {"shop": {"stable": "v1", "canary": "v2", "rollout": ROLLOUT | rollout}},
        }
    )


class MemoryStore:
    """A `Store` that survives controllers. `failing`: every save raises; `open` cleared: every save hangs."""

    def __init__(self) -> None:
        self.saved: dict[str, Saved] = {}
        self.log: list[tuple[str, Decision]] = []
        self.blocks: list[JournalBlock] = []
        self.outbox: list[Message] = []
        self.failing = False
        self.open = threading.Event()
        self.open.set()

    def load(self) -> Mapping[str, Saved]:
        return dict(self.saved)

    def save(
        self,
        route: str,
        rollout: Mapping[str, Any] | None,
        evidence: Mapping[str, Any] | None,
        decisions: Sequence[Decision] = (),
        journal: Sequence[JournalBlock] = (),
        *,
        mail: Mail = NO_MAIL,
    ) -> None:
        if not self.open.wait(10):
            raise StoreError("state", "is still hanging")
        if self.failing:
            raise StoreError("state", "was not written, the disk is full", "make room")
        self.blocks += journal
        end = JournalEnd(self.blocks[-1].rollout, self.blocks[-1].first + self.blocks[-1].ticks) if self.blocks else None
        record, known = json.loads(json.dumps([rollout, evidence]))
        self.outbox = [one for one in (*self.outbox, *mail.put) if (one.id, one.hook) not in mail.taken]
        self.saved[route] = Saved(record, known, end, outbox=tuple(self.outbox))
        self.log += [(route, decision) for decision in decisions]

    def decisions(self, route: str, limit: int = 100, before_id: int | None = None) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = [
            {"id": n, "kind": d.kind, "sentence": d.sentence} for n, (name, d) in enumerate(self.log, 1) if name == route
        ]
        return [row for row in reversed(rows) if before_id is None or row["id"] < before_id][:limit]

    def rollouts(self, route: str) -> list[str]:
        return list(dict.fromkeys(block.rollout for block in reversed(self.blocks)))

    def journal(self, route: str, rollout: str, limit: int = 100, after: int = 0) -> list[tuple[int, JournalBlock]]:
        found = [(n, block) for n, block in enumerate(self.blocks, 1) if block.rollout == rollout and n > after]
        return found[:limit]

    def close(self) -> None:
        self.open.set()

    @property
    def kinds(self) -> list[str]:
        """The kinds of the decisions on disk, oldest first."""
        return [decision.kind for _, decision in self.log]


def verdict(action: Action, sentence: str = "as scripted") -> Verdict:
    """A finding that asks for `action`."""
    outcome = {Action.PROMOTE: Outcome.PASS, Action.ROLLBACK: Outcome.FAIL}.get(action, Outcome.INCONCLUSIVE)
    return Verdict(outcome, action, sentence, (MetricVerdict("error_rate", outcome, action, sentence, 7.0, 6.0),))


class ScriptedJudge(Judge):
    """Says what it is told to, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(JudgeSettings())
        self.says = verdict(Action.CONTINUE)
        self.heard: list[str] = []

    def observe(self, tick: Tick) -> None:
        self.heard.append("observe")

    def begin_rollout(self) -> None:
        self.heard.append("begin_rollout")

    def begin_step(self) -> None:
        self.heard.append("begin_step")

    def judge(self, tick: Tick, *, full_weight: bool) -> Verdict:
        self.heard.append("full" if full_weight else "judge")
        return self.says


class World:
    """Controllers come and go (`restart`); the segment, the store and the workers stay."""

    def __init__(self, settings: Config | None = None, workers: int = 2, scripted: bool = True) -> None:
        self.config, self.scripted = settings or config(), scripted
        self.clock = ManualClock(1000.2)
        self.store = MemoryStore()
        self.segment = layout.create(4, 4)
        self.slots = {name: slot for slot, name in enumerate(self.config.routes, 1)}
        self.board = Board(self.segment)
        self._rows = [AckRow(self.segment, worker) for worker in range(workers)]
        for worker, row in enumerate(self._rows):
            row.enter(100 + worker, self.clock.monotonic())
        self.counters = [Counters(self.segment, 0, self.slots["shop"], variant) for variant in (0, 1)]
        self.obeying = True
        self._obeying = asyncio.create_task(self._obey())
        self.restart()

    async def _obey(self) -> None:
        while True:
            if self.obeying:
                for row in self._rows:
                    row.beat(self.clock.monotonic(), 0, tuple(self.slots.values()))
            await asyncio.sleep(0.001)

    def restart(self) -> None:
        """A new controller, from what the store has and the board shows. The old one just ends, like a killed one."""
        self.controller = Controller(
            self.config,
            self.segment,
            self.slots,
            self.store,
            self.store.load(),
            clock=self.clock,
            save_limit=0.05,
            ack_limit=0.05,
        )
        self.judge = ScriptedJudge()
        if self.scripted:
            self.route.judge = self.judge

    @property
    def route(self) -> RouteControl:
        return self.controller.routes["shop"]

    @property
    def phase(self) -> Phase:
        return self.route.rollout.phase

    @property
    def split(self) -> Split:
        """What workers obey."""
        return self.board.read(self.slots["shop"])

    @property
    def shown(self) -> tuple[int, bool]:
        """(weight, swapped) on the board."""
        return self.split.weight_bp, self.split.swapped

    async def do(self, event: Event) -> Answer:
        return await self.controller.submit("shop", event)

    async def start(self) -> Answer:
        return await self.do(self.controller.start_event("shop"))

    async def ticks(self, seconds: int, *, traffic: Any = None) -> None:
        """Let seconds pass; `traffic(second)` writes into the ledger in each."""
        for _ in range(seconds):
            if traffic:
                traffic(int(self.clock.monotonic()) + 0.9)
            self.clock.advance(1)
            self.controller.tick()
            await self.settled()

    async def settled(self) -> None:
        """Wait until what can be saved is saved."""
        ticket = self.route.saver._wanted
        await self.route.saver.wait(ticket, 5 if self.store.open.is_set() else 0.05)

    def requests(self, started: float, variant: int, good: int, bad: int = 0) -> None:
        """Requests, each of another user, that are answered in 10 to 20 ms."""
        counters, salt = self.counters[variant], self.split.salt
        for n in range(good + bad):
            user = seat(salt, b"user %d" % n)
            cohort = counters.begin(started, user)
            count = Count.C5XX if n < bad else Count.C2XX
            counters.finish(count, cohort, 0.01 + n % 20 * 0.0005, user, failed=n < bad)

    async def end(self) -> None:
        self.store.open.set()
        self._obeying.cancel()
        with suppress(asyncio.CancelledError):
            await self._obeying
        await self.controller.close()
