"""`decisions`: what people see, what programs get, and verdicts made again."""

from __future__ import annotations

import base64
import json
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from played_admin import Command, Played

import canaryproxy
from canaryproxy.analysis.record import Entry, Judged, Opening, mark, pack, settings_to_json
from canaryproxy.analysis.sample import ArmTick, Tick
from canaryproxy.analysis.settings import JudgeSettings
from canaryproxy.analysis.verdict import Action, Outcome, Verdict
from canaryproxy.store.base import Decision, JournalBlock
from canaryproxy.store.sqlite import SqliteStore

pytest_plugins = ["played_admin"]

ROLLOUT = "1764043650-3f2a9c01"


class Sum:
    """A judge that adds up the canary's failures."""

    def __init__(self, rules: JudgeSettings, state: dict[str, Any]) -> None:
        self.sum = state["sum"]

    def begin_step(self) -> None:
        self.sum = 0

    def judge(self, tick: Tick, *, full_weight: bool) -> Verdict:
        self.sum += tick.canary.failed
        action = Action.ROLLBACK if self.sum > 5 else Action.CONTINUE
        return Verdict(Outcome.FAIL if self.sum > 5 else Outcome.INCONCLUSIVE, action, f"{self.sum} failed")


@pytest.fixture(autouse=True)
def judge(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[Sum]], None]:
    """The engine that replays: `Sum`, or what it is called with."""

    def take(kind: type[Sum]) -> None:
        module = ModuleType("canaryproxy.analysis.judge")
        module.Judge = kind  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)

    take(Sum)
    return take


def _journal(version: str = canaryproxy.__version__) -> list[JournalBlock]:
    """Six ticks with 0, 1, ... 5 failures in blocks of two: harm is found in tick 3."""
    judge, blocks = Sum(JudgeSettings(), {"sum": 0}), []
    for first in (0, 2, 4):
        entries: list[Entry] = [] if first else [Opening(settings_to_json(JudgeSettings()), {"sum": 0}, version)]
        for failed in (first, first + 1):
            tick = Tick(1.0, ArmTick(), ArmTick(9, failed))
            entries.append(Judged(tick, False, mark(judge.judge(tick, full_weight=False))))
        blocks.append(JournalBlock(ROLLOUT, first, 2, pack(entries)))
    return blocks


def _decisions(**changed: str) -> list[Decision]:
    """A start, a verdict on tick 1, and the rollback that tick 3 led to."""

    def data(tick: int, **verdict: str) -> dict[str, Any]:
        return {"verdict": verdict, "journal": {"rollout": ROLLOUT, "tick": tick}}

    first = data(1, outcome="inconclusive", action="continue", sentence="1 failed")
    last = data(3, **{"outcome": "fail", "action": "rollback", "sentence": "6 failed"} | changed)
    return [
        Decision(1.7e9, "start", "started", {"by": "anna"}),
        Decision(1.7e9 + 2, "verdict", "inconclusive: 1 failed", first),
        Decision(1.7e9 + 4, "rollback", "rolled back: all users to v1 (6 failed)", last),
    ]


@pytest.fixture
def state(tmp_path: Path) -> Callable[..., str]:
    """A state file with these decisions and this journal."""

    def write(decisions: list[Decision] | None = None, journal: list[JournalBlock] | None = None) -> str:
        with closing(SqliteStore(tmp_path / "state.db")) as store:
            store.save("shop", {}, None, decisions or _decisions(), _journal() if journal is None else journal)
        return str(tmp_path / "state.db")

    return write


def test_decisions_are_listed(operator: Command, api: Played) -> None:
    made = {"id": 4, "at": 1_700_000_000.0, "kind": "rollback", "sentence": "rolled back: all users to v1", "data": {}}
    api.answers["GET /api/v1/routes/shop/decisions?limit=5"] = (200, {"decisions": [made]})
    api.answers["GET /api/v1/routes/shop/decisions?limit=20"] = (200, {"decisions": []})
    assert operator("decisions", "shop", "--limit", "5").out.endswith("  rollback  rolled back: all users to v1\n")
    assert operator("decisions", "shop", "--limit", "5").out.startswith("2023-11-1")
    assert operator("decisions", "shop").out == "nothing has been decided yet\n"
    assert json.loads(operator("decisions", "shop", "--limit", "5", "--json").out) == {"decisions": [made]}


def test_a_kind_that_there_is_not_is_refused(operator: Command, api: Played) -> None:
    ran = operator("decisions", "--kind", "nonsense")
    said = " ".join(ran.err.replace("│", " ").split())
    assert (ran.code, ran.out, api.asked) == (2, "", [])
    assert "there is no kind 'nonsense'; there is start, retry," in said


def test_decisions_of_a_state_file_are_listed(command: Command, state: Callable[..., str]) -> None:
    ran = command("decisions", "--state", state(), "--limit", "2")
    assert [line.split("  ")[1] for line in ran.out.splitlines()] == ["rollback", "verdict"]


def _numbered(*made: tuple[int, float, str]) -> list[dict[str, Any]]:
    return [{"id": n, "at": at, "kind": kind, "sentence": f"s{n}", "data": {}} for n, at, kind in made]


def test_more_than_one_page_of_decisions_is_asked_for_page_by_page(operator: Command, api: Played) -> None:
    path = "GET /api/v1/routes/shop/decisions?limit=500"
    pages = [_numbered(*((n, 1.7e9, "step") for n in range(high, high - 500, -1))) for high in (1500, 1000, 500)]
    api.answers |= {path: (200, {"decisions": pages[0]}), f"{path}&before=1001": (200, {"decisions": pages[1]})}
    api.answers[f"{path}&before=501"] = (200, {"decisions": pages[2]})
    found = json.loads(operator("decisions", "shop", "--limit", "1200", "--json").out)["decisions"]
    assert [one["id"] for one in found] == list(range(1500, 300, -1))


def test_decisions_of_one_kind_since_a_time(operator: Command, api: Played) -> None:
    now = time.time()
    made = _numbered((4, now - 60, "step"), (3, now - 120, "rollback"), (2, now - 180, "pause"), (1, now - 7200, "rollback"))
    for limit in (2, 20):
        api.answers[f"GET /api/v1/routes/shop/decisions?limit={limit}"] = (200, {"decisions": made})

    def ids(*words: str) -> list[int]:
        return [one["id"] for one in json.loads(operator("decisions", "shop", "--json", *words).out)["decisions"]]

    assert ids("--since", "1h") == [4, 3, 2]
    assert ids("--since", datetime.fromtimestamp(now - 130, UTC).isoformat()) == [4, 3]
    assert ids("--kind", "rollback") == [3, 1]
    assert ids("--kind", "rollback", "--kind", "pause", "--since", "1h") == [3, 2]
    assert operator("decisions", "shop", "--since", "10s").out == "nothing that is asked for has been decided yet\n"


def test_a_time_that_is_none_is_a_usage_error(operator: Command) -> None:
    ran = operator("decisions", "shop", "--since", "lunch")
    assert ran.code == 2
    assert "'lunch' is neither a duration nor a time" in ran.err


def test_verdicts_are_made_again_from_the_state_file(command: Command, state: Callable[..., str]) -> None:
    ran = command("decisions", "--replay", "--state", state())
    assert (ran.code, ran.err) == (0, "")
    first, second, total = ran.out.splitlines()
    assert first.endswith("verdict   tick 1       the same  (inconclusive: 1 failed)")
    assert second.endswith("rollback  tick 3       the same  (rolled back: all users to v1 (6 failed))")
    assert total == f"rollout {ROLLOUT}: 6 verdicts made again from their counts: all the same as recorded"


def test_verdicts_are_made_again_over_the_api(operator: Command, api: Played) -> None:
    made = [
        {"id": n, "at": one.at, "kind": one.kind, "sentence": one.sentence, "data": one.data}
        for n, one in reversed([*enumerate(_decisions(), 1)])
    ]
    blocks = [
        {"id": n, "first": one.first, "ticks": one.ticks, "data": base64.b64encode(one.data).decode()}
        for n, one in enumerate(_journal(), 7)
    ]
    path = "GET /api/v1/routes/shop"
    api.answers |= {
        f"{path}/journal": (200, {"rollouts": [ROLLOUT, "1-x"]}),
        f"{path}/journal/{ROLLOUT}?limit=200&after=0": (200, {"blocks": blocks[:2]}),
        f"{path}/journal/{ROLLOUT}?limit=200&after=8": (200, {"blocks": blocks[2:]}),
        f"{path}/journal/{ROLLOUT}?limit=200&after=9": (200, {"blocks": []}),
        f"{path}/decisions?limit=500": (200, {"decisions": made}),
    }
    ran = operator("decisions", "shop", "--replay", "--json")
    assert (ran.code, ran.err) == (0, "")
    report = json.loads(ran.out)
    assert (report["ticks"], report["differences"], report["missing"]) == (6, 0, [])
    assert report["versions"] == [canaryproxy.__version__]
    assert [(one["tick"], one["id"], one["difference"]) for one in report["decisions"]] == [(1, 2, None), (3, 3, None)]


def test_the_first_that_differs_is_named(command: Command, state: Callable[..., str]) -> None:
    ran = command("decisions", "--replay", "--state", state(_decisions(sentence="7 failed")))
    assert ran.code == 1
    assert ran.err == "canaryproxy: route shop: tick 3: decision 3 (rollback): sentence was '7 failed', is '6 failed'\n"
    assert "DIFFERS: sentence was '7 failed', is '6 failed'" in ran.out
    assert ran.out.endswith(": 1 differ\n")


def test_another_engine_is_found_out_in_every_tick(
    command: Command, state: Callable[..., str], judge: Callable[[type[Sum]], None]
) -> None:
    class Blind(Sum):
        def judge(self, tick: Tick, *, full_weight: bool) -> Verdict:
            return super().judge(tick if tick.canary.failed != 4 else Tick(1.0, ArmTick(), ArmTick()), full_weight=full_weight)

    judge(Blind)
    ran = command("decisions", "--replay", "--state", state(journal=_journal("0.0.9")))
    assert ran.code == 1
    said = "tick 4: another sentence was found then, now it is '6 failed'"
    assert ran.err.startswith(f"canaryproxy: route shop: {said}; recorded by version 0.0.9, this is {canaryproxy.__version__}")
    assert ran.out.endswith(": 2 differ\n")


def test_a_missing_part_is_said_and_a_decision_in_it_is_no_success(command: Command, state: Callable[..., str]) -> None:
    first, _, last = _journal()
    ran = command("decisions", "--replay", "--state", state(journal=[first, last]))
    assert ran.code == 1
    missing, problem = ran.err.splitlines()
    assert missing == "canaryproxy: route shop: ticks 2 to 5 are missing: the state could not be written then"
    assert problem == "canaryproxy: route shop: tick 3: decision 3 (rollback): cannot be made again: its counts are missing"


def test_a_missing_part_without_a_decision_is_only_said(command: Command, state: Callable[..., str]) -> None:
    ran = command("decisions", "--replay", "--state", state(_decisions()[:2], _journal()[:1] + _journal()[2:]))
    assert ran.code == 0
    assert "ticks 2 to 5 are missing" in ran.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("shop", "--rollout", "9-x"), f"route shop: has no journal of rollout 9-x; there is {ROLLOUT}"),
        (("web",), "route web: has no journal of a rollout; start one"),
    ],
)
def test_a_rollout_that_is_not_there(command: Command, state: Callable[..., str], words: tuple[str, ...], said: str) -> None:
    ran = command("decisions", *words, "--replay", "--state", state())
    assert (ran.code, ran.err) == (1, f"canaryproxy: {said}\n")


def test_a_journal_that_cannot_be_read_is_said(command: Command, state: Callable[..., str]) -> None:
    ran = command("decisions", "--replay", "--state", state(journal=[JournalBlock(ROLLOUT, 0, 1, b"x")]))
    assert ran.code == 1
    assert f"the journal of rollout {ROLLOUT} cannot be read: not a block of a journal" in ran.err


def test_a_state_file_that_is_not_there_is_not_made(command: Command, tmp_path: Path) -> None:
    ran = command("decisions", "--state", "state.db")
    assert ran.err == "canaryproxy: --state: there is no file 'state.db'; it is the one that state.path names\n"
    assert list(tmp_path.iterdir()) == []
