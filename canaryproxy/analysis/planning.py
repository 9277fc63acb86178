"""What a rollout will take, before it begins: when each step proves health, when each regression is found, whom it hurts. Pure.

Called by `canaryproxy plan`. Nothing is estimated with a formula of its own: the judge's metrics are asked what their claims gain
from one canary request whose counts are exactly the expected ones (docs/statistics.md, "Before a rollout: plan"), and
the requests follow at which the mixture over their bets crosses their threshold. So plan and judge cannot drift apart. What is
predicted is close to the median; one in twenty takes two to three times as long (simulated).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, exp, inf, log
from statistics import NormalDist
from typing import Final, NamedTuple

from canaryproxy.analysis.comparison import NO_GAIN
from canaryproxy.analysis.difference import Spec
from canaryproxy.analysis.drops import Goal
from canaryproxy.analysis.latency import Latency, thresholds_us
from canaryproxy.analysis.settings import HARM_SHARES, GoalRule, JudgeSettings
from canaryproxy.analysis.shares import error_rate
from canaryproxy.analysis.verdict import Action
from canaryproxy.analysis.windows import Block
from canaryproxy.stats.counts import log_e_drop
from canaryproxy.stats.evidence import STEP_MASS
from canaryproxy.stats.memory import Rates

#: The regressions that a plan is made for: the canary's error rate, its delay in microseconds, what is left of its conversions.
ERRORS: Final = (0.01, 0.02, 0.05, 0.50)
DELAYS_US: Final = (60_000, 100_000, 200_000)
CONVERSIONS_LEFT: Final = 0.9
#: Seconds in which a first weight should prove health: the longest default hold.
FIRST_STEP: Final = 900.0
#: Seconds of a step above which one is warned, and canary users below which.
LONG_STEP: Final = 1800.0
FEW_USERS: Final = 20
#: The judge looks once a second: nothing is found earlier.
TICK: Final = 1.0
#: Latencies are taken to be log-normal with a p95 of 2.5 medians (the world of the benchmarks: 80 ms and 200 ms).
_SIGMA: Final = log(2.5) / NormalDist().inv_cdf(0.95)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a route serves now: judged requests a second, share of errors, p95, users, conversions a second; None: not known.

    `spread`, at least 1, is how much the users cluster: the design effect D of docs/statistics.md 5.
    """

    rate: float
    errors: float = 0.001
    p95_us: int | None = None
    users: int | None = None
    goal_rate: float | None = None
    spread: float = 1.0


class Rung(NamedTuple):
    """One step as configured: the canary's share (0..1), and the seconds that it lasts at least."""

    weight: float
    hold: float


class Found(NamedTuple):
    """When a regression is found that is there from the step's start: canary requests, seconds, what the judge then does.

    `requests` and `seconds` are inf where it never does. `rollback` is when it rolls back, inf if it only pauses. `hurt` counts
    the canary's requests that failed, were slow or did not become conversions until then.
    """

    regression: str
    requests: float
    seconds: float
    action: Action
    rollback: float
    hurt: float


class StepPlan(NamedTuple):
    """One step: its canary requests a second and users, what each metric needs to prove health, how long it then lasts."""

    number: int
    weight: float
    hold: float
    rate: float
    users: float | None
    needed: dict[str, float]
    health: float
    found: tuple[Found, ...]

    @property
    def requests(self) -> float:
        """Canary requests that the slowest metric needs."""
        return max(self.needed.values())

    @property
    def seconds(self) -> float:
        """How long the step lasts if the canary is healthy."""
        return max(self.hold, self.health)


class Concern(NamedTuple):
    """What is wrong with a plan: a word for programs, the steps that it is about (none: all of it), a sentence."""

    code: str
    steps: tuple[int, ...]
    sentence: str


class Sort(NamedTuple):
    """A metric of shares as it is planned: its specification, stable's rates of each kind."""

    spec: Spec
    stable: tuple[float, ...]


# --- One claim: how many canary requests until its evidence is there ---


def crossing(gains: Sequence[float], need: float) -> float:
    """The n at which log mean_k exp(n gains_k) = need: how much of what gains that each time is needed; inf if no amount is."""
    best = max(gains)
    if best <= NO_GAIN:
        return inf

    def log_e(n: float) -> float:
        return n * best + log(sum(exp(n * (gain - best)) for gain in gains) / len(gains))

    low, high = need / best, (need + log(len(gains))) / best
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if log_e(middle) < need else (low, middle)
    return high


def _expected(weight: float, stable: Sequence[float], canary: Sequence[float]) -> Block:
    """What comes with one canary request, on average."""
    others = (1 - weight) / weight
    return Block(0.0, (others, *(others * rate for rate in stable)), (1.0, *canary))


def requests_of_harm(sort: Sort, claim: int, weight: float, canary: Sequence[float], spread: float) -> float:
    """Canary requests until harm claim number `claim` is proven, where harm is there from a step's first request."""
    harm = sort.spec.harms[claim]
    gains = harm.log_factors(_expected(weight, sort.stable, canary), Rates.unseen(*sort.stable), alone=False)
    return crossing(gains, spread * harm.threshold - log(STEP_MASS))


def requests_of_health(sort: Sort, weight: float, spread: float) -> float:
    """Canary requests until health is proven, of a canary that is like stable."""
    health = sort.spec.health
    gains = health.log_factors(_expected(weight, sort.stable, sort.stable), Rates.unseen(*sort.stable), alone=False)
    return crossing(gains, spread * health.threshold)


def _acts(sort: Sort, weight: float, canary: Sequence[float], spread: float) -> Iterator[tuple[float, Action]]:
    """For each clause of the metric that this harm can meet: after how many canary requests, and what then."""
    for claim, action, _, least, kind, size, _ in sort.spec.clauses:
        # A difference of exactly the margin, give or take rounding, is met half of the time.
        if canary[kind] - sort.stable[0] < least - 1e-9 or action is Action.CONTINUE:
            continue
        requests = requests_of_harm(sort, claim, weight, canary, spread)
        if size is not None:
            if canary[size.kind] - sort.stable[0] < size.difference - 1e-9:
                continue
            requests = max(requests, size.least)
        yield requests, action


# --- The metrics, and what a regression does to their rates ---


class _Metrics:
    """What the judge of these settings would weigh in this traffic."""

    def __init__(self, settings: JudgeSettings, traffic: Traffic) -> None:
        self.settings, self.traffic = settings, traffic
        rate = min(max(traffic.errors, 1e-6), 0.97)  # none at all is never believed: stable's estimate stays above zero
        self.errors = Sort(error_rate(settings).spec, (rate,))
        self._rules = settings.latency if traffic.p95_us else ()
        others = sum(rule.name != "latency_p95" for rule in settings.latency)
        self._latency = [Latency(rule, settings, others).spec for rule in self._rules]
        rule = settings.goals[0] if settings.goals else GoalRule("conversions")
        share = HARM_SHARES["goals"] / max(len(settings.goals), 1)
        self.goal = None if traffic.goal_rate is None else Goal(0, rule, settings, share)

    def slow(self, delay_us: int = 0) -> Iterator[tuple[Sort, tuple[float, ...], float]]:
        """Each latency metric, the rates of a canary that is so much slower, and the seconds after which a request is counted."""
        for rule, spec in zip(self._rules, self._latency, strict=True):
            median = (self.traffic.p95_us or 0) / exp(_SIGMA * NormalDist().inv_cdf(0.95))
            q = median * exp(_SIGMA * NormalDist().inv_cdf(rule.quantile))
            edges = thresholds_us(round(q), rule.margin_us)
            yield Sort(spec, _over(edges, median)), _over([edge - delay_us for edge in edges], median), edges[-1] / 1e6 + TICK

    def required(self) -> Iterator[tuple[Sort, bool]]:
        """The metrics that must prove health, and whether they have to warm up."""
        if not self.errors.spec.dry_run:
            yield self.errors, False
        yield from ((sort, True) for sort, _, _ in self.slow() if sort.spec.required and not sort.spec.dry_run)


def _over(edges_us: Sequence[float], median_us: float) -> tuple[float, ...]:
    """The share of requests over each of these latencies."""
    normal = NormalDist(log(median_us), _SIGMA)
    return tuple(min(max(1 - normal.cdf(log(edge)), 1e-9), 1 - 1e-9) if edge > 0 else 1 - 1e-9 for edge in edges_us)


def _first(regression: str, acts: Iterable[tuple[float, Action]], rate: float, before: float, hurts: float) -> Found:
    """The earliest of what the judge does, `before` seconds later than its requests take; `hurts`: share of hurt requests."""
    known = [(requests, action) for requests, action in acts if requests < inf]
    if not known:
        return Found(regression, inf, inf, Action.CONTINUE, inf, inf)

    def after(requests: float) -> float:
        return max(before + requests / rate, TICK)

    requests, action = min(known, key=lambda one: one[0])
    rollback = min((after(needed) for needed, what in known if what is Action.ROLLBACK), default=inf)
    if rollback <= after(requests) + TICK:  # a pause that becomes a rollback at the next tick is none
        action = Action.ROLLBACK
    return Found(regression, requests, after(requests), action, rollback, after(requests) * rate * hurts)


def _regressions(metrics: _Metrics, weight: float, rate: float, warmup: float) -> Iterator[Found]:
    """When each is found. One that is not worse than stable is left out."""
    traffic = metrics.traffic
    if not metrics.errors.spec.dry_run:
        for errors in ERRORS:
            if errors > metrics.errors.stable[0]:
                acts = _acts(metrics.errors, weight, (errors,), traffic.spread)
                yield _first(f"errors {100 * errors:g}%", acts, rate, 0.0, errors)
    for delay in DELAYS_US if traffic.p95_us else ():
        each = [
            _first(f"p95 +{delay // 1000} ms", _acts(sort, weight, canary, traffic.spread), rate, warmup + late, canary[-1])
            for sort, canary, late in metrics.slow(delay)
            if not sort.spec.dry_run
        ]
        if each:
            yield min(each, key=lambda found: found.seconds)
    if metrics.goal is not None and not metrics.goal.dry_run:
        yield _conversions(metrics.goal, traffic, weight, rate)


def _conversions(goal: Goal, traffic: Traffic, weight: float, rate: float) -> Found:
    """When the missing conversions are found; the rollback waits for the end of the windows that confirm the trend."""
    total = traffic.goal_rate or 0.0
    stable, canary = total * (1 - weight), total * weight * CONVERSIONS_LEFT
    gains = [log_e_drop(ratio, 1.0, weight, stable, canary) for ratio in goal.RATIOS]
    seconds = max(crossing(gains, traffic.spread * goal.threshold - log(STEP_MASS)), TICK)
    confirmed = max(ceil(seconds / goal.WINDOW) if seconds < inf else inf, goal.CONFIRMED) * goal.WINDOW
    rolls_back = goal.rule.action is Action.ROLLBACK and goal.rule.margin <= 1 - CONVERSIONS_LEFT
    action = Action.WARN if goal.rule.action is Action.WARN else Action.PAUSE
    lost = seconds * total * weight * (1 - CONVERSIONS_LEFT)
    what = f"conversions -{100 * (1 - CONVERSIONS_LEFT):.0f}%"
    return Found(what, seconds * rate, seconds, action, confirmed if rolls_back else inf, lost)


# --- The plan ---


def _needed(metrics: _Metrics, weight: float) -> dict[str, float]:
    """Canary requests that each required metric needs; the least that a step needs is among them."""
    needed = {sort.spec.name: requests_of_health(sort, weight, metrics.traffic.spread) for sort, _ in metrics.required()}
    if not needed:
        return {"nothing that could prove it": inf}
    return needed | {"min_requests": float(metrics.settings.min_requests)}


def plan(traffic: Traffic, settings: JudgeSettings, rungs: Sequence[Rung]) -> tuple[StepPlan, ...]:
    """What each step of a rollout will take. Rates above 0; weights between 0 and 1, neither included (100 % has no control)."""
    metrics = _Metrics(settings, traffic)
    steps = []
    for number, (weight, hold) in enumerate(rungs, 1):
        rate = traffic.rate * weight
        # Caches are cold at a rollout's start only: the first step waits for them.
        warmup = max(settings.warmup, settings.warmup_requests / rate) if number == 1 else 0.0
        needed = _needed(metrics, weight)
        waits = {sort.spec.name: warmup for sort, warms in metrics.required() if warms}
        health = max(waits.get(name, 0.0) + requests / rate for name, requests in needed.items())
        users = None if traffic.users is None else traffic.users * weight
        found = tuple(_regressions(metrics, weight, rate, warmup))
        if users is not None:
            found = tuple(one if one.hurt == inf else one._replace(hurt=min(one.hurt, users)) for one in found)
        steps.append(StepPlan(number, weight, hold, rate, users, needed, max(health, TICK), found))
    return tuple(steps)


def first_weight(traffic: Traffic, settings: JudgeSettings, seconds: float = FIRST_STEP) -> float | None:
    """The least share (a whole percent, 0.01..0.5) that proves health within `seconds`: N / (rate seconds); None if none does."""
    metrics = _Metrics(settings, traffic)
    for percent in range(1, 51):
        weight = percent / 100
        if max(_needed(metrics, weight).values()) / (traffic.rate * weight) <= seconds:
            return weight
    return None


def spoken(seconds: float) -> str:
    """`45 s`, `3.1 min`, `2.0 h`, `3.5 d`; `never` of inf."""
    if seconds == inf:
        return "never"
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.{0 if unit == 1 else 1}f} {name}"
    return f"{seconds / 86400:.1f} d"


def concerns(steps: Sequence[StepPlan], first: float | None, max_step: float) -> list[Concern]:
    """What one should know before this plan begins. `first` is `first_weight()`, `max_step` the longest that a step may last."""
    found = [concern for step in steps if (concern := _concern_of_time(step, max_step))]
    if first is None:
        found.append(Concern("too_little_traffic", (), f"no weight up to 50% proves health within {spoken(FIRST_STEP)}"))
    elif steps and first > steps[0].weight:
        within = f"{first:.0%} is the first weight that proves health within {spoken(FIRST_STEP)}"
        found.append(Concern("first_weight", (1,), f"{within}; this plan begins with {100 * steps[0].weight:g}%"))
    few = [step for step in steps if step.users is not None and step.users < FEW_USERS]
    if few:
        users = ", ".join(f"{step.users:.0f}" for step in few)
        what = f"{users} canary users, fewer than {FEW_USERS}: one of them can hide a fault, or look like one"
        found.append(Concern("few_users", _numbers(few), f"{_named(few)}: {what}"))
    blind = [step for step in steps if any(_is_missed(one, step) for one in step.found)]
    if blind:
        what = f"-{100 * (1 - CONVERSIONS_LEFT):.0f}% conversions cannot be found before the step ends"
        found.append(Concern("conversions", _numbers(blind), f"{_named(blind)}: {what}"))
    return found


def _is_missed(found: Found, step: StepPlan) -> bool:
    return found.regression.startswith("conversions") and found.seconds > step.seconds


def _concern_of_time(step: StepPlan, max_step: float) -> Concern | None:
    """The worst that is to say of how long a step takes."""
    health, number = spoken(step.health), (step.number,)
    needs = f"step {step.number}: health takes {health} to prove"
    if step.health == inf:
        return Concern("max_step_duration", number, f"step {step.number}: nothing proves health, so it ends as inconclusive")
    if step.health > max_step:
        return Concern("max_step_duration", number, f"{needs}, and max_step_duration ends it after {spoken(max_step)}")
    if step.seconds > LONG_STEP:
        why = f"{needs}" if step.health > step.hold else f"step {step.number}: it is held for {spoken(step.hold)}"
        return Concern("long_step", number, f"{why}: longer than {spoken(LONG_STEP)}")
    if step.health > step.hold:
        return Concern("hold", number, f"{needs}, so the step lasts longer than its hold of {spoken(step.hold)}")
    return None


def _numbers(steps: Sequence[StepPlan]) -> tuple[int, ...]:
    return tuple(step.number for step in steps)


def _named(steps: Sequence[StepPlan]) -> str:
    return f"step{'s' if len(steps) > 1 else ''} {', '.join(str(step.number) for step in steps)}"
