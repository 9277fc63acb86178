"""Ticks as a data plane would report them, and a judge that is told them. Deterministic: expected counts, no draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from weakref import WeakKeyDictionary

from canaryproxy.analysis.judge import Judge
from canaryproxy.analysis.sample import ArmTick, Cohort, Group, Tick
from canaryproxy.analysis.settings import JudgeSettings
from canaryproxy.analysis.verdict import Action, MetricVerdict, Verdict
from canaryproxy.stats.histogram import index

DEFAULT = JudgeSettings()
COLD = JudgeSettings(warmup=0, warmup_requests=0)

Slow = tuple[float, float, float, float]
USUAL: Slow = (0.05, 0.04, 0.03, 0.02)
USERS = 50
_turns: WeakKeyDictionary[Judge, int] = WeakKeyDictionary()


def groups(requests: int, failed: int = 0, slow: int = 0, users: int = USERS, first: int = 0) -> dict[int, Group]:
    """Requests, failures and slow ones of so many users, each in a group of its own; events fall on as many as can be."""
    rows = {}
    for user in range(min(users, requests)):
        n, x, late = ((count - user + users - 1) // users for count in (requests, failed, slow))
        rows[first + user] = Group(n, n, x, late)
    return rows


def arm(
    requests: int,
    failed: int = 0,
    slow: Slow = USUAL,
    *,
    stalled: int = 0,
    users: int = USERS,
    quantiles: Mapping[str, Slow] | None = None,
) -> ArmTick:
    """A second of one variant. `slow`: shares over q and over q + 1/4, 1/2 and 1 margin of the p95; `quantiles`: of others."""
    if not requests:
        return ArmTick()
    cohorts = {"stalls": (Cohort((5,), requests, (requests - stalled,)),)}
    for name, shares in {"latency_p95": slow, **(quantiles or {})}.items():
        cohorts[name] = (Cohort((1, 2, 3, 4), requests, tuple(requests - round(requests * share) for share in shares)),)
    quick = requests - requests // 20
    return ArmTick(
        requests,
        failed,
        cohorts,
        {index(100_000): quick, index(200_000): requests - quick},
        began=requests,
        groups=groups(requests, failed, max(round(requests * slow[2]), stalled), users),
        users=users,
    )


NONE = ArmTick()
STABLE = replace(arm(1000, 1), groups={}, users=0)
HEALTHY = arm(100)


def with_bot(canary: ArmTick, group: int, failed: int = 1, slow: int = 0) -> ArmTick:
    """The same with one more user, in `group`, all of whose requests fail (or hang)."""
    n = max(failed, slow)
    cohorts = {
        name: (replace(one, started=one.started + n, within=tuple(count + n - slow for count in one.within)),)
        for name, (one,) in canary.cohorts.items()
    }
    more = {**canary.groups, group: Group(n, n, failed, slow)}
    return replace(
        canary, resolved=canary.resolved + n, failed=canary.failed + failed, began=canary.began + n, cohorts=cohorts, groups=more
    )


def a_tick(stable: ArmTick, canary: ArmTick, weight: float | None = None, share: float | None = None) -> Tick:
    """One second; the weight is what the requests say unless it is given."""
    both = stable.began + canary.began
    return Tick(1.0, stable, canary, weight if weight is not None else canary.began / both if both else 0.0, share)


def a_judge(settings: JudgeSettings = COLD, seen: int = 10, stable: ArmTick = STABLE) -> Judge:
    """One that has seen stable for so many seconds, at the beginning of a rollout."""
    judge = Judge(settings)
    for _ in range(seen):
        judge.observe(a_tick(stable, NONE))
    judge.begin_rollout()
    judge.begin_step()
    return judge


def run(
    judge: Judge,
    canary: ArmTick,
    ticks: int = 1,
    *,
    stable: ArmTick = STABLE,
    full_weight: bool = False,
    share: float | None = None,
    weight: float | None = None,
) -> Verdict:
    """Ticks that are all the same, but that other users are concerned in each."""
    for _ in range(ticks):
        _turns[judge] = turn = _turns.get(judge, 0) + 7
        rows = {(group + turn) % USERS if group < USERS else group: row for group, row in canary.groups.items()}
        verdict = judge.judge(a_tick(stable, replace(canary, groups=rows), weight, share), full_weight=full_weight)
    return verdict


def until(
    judge: Judge, canary: ArmTick, action: Action, *, stable: ArmTick = STABLE, full_weight: bool = False, ticks: int = 600
) -> Verdict:
    """The first verdict with this action."""
    for _ in range(ticks):
        verdict = run(judge, canary, stable=stable, full_weight=full_weight)
        if verdict.action is action:
            return verdict
    raise AssertionError(f"never {action}: {verdict.sentence}")


def actions(judge: Judge, canary: ArmTick, ticks: int, stable: ArmTick = STABLE) -> set[Action]:
    return {run(judge, canary, stable=stable).action for _ in range(ticks)}


def of(verdict: Verdict, metric: str) -> MetricVerdict:
    return next(one for one in verdict.metrics if one.metric == metric)
