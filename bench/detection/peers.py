"""The rules of other tools on the same requests: what each would have said, and when. Pure.

Read in their sources (Flagger `pkg/controller/scheduler.go`, Argo Rollouts `utils/analysis`, Kayenta's `MannWhitneyClassifier`,
GrowthBook's `gbstats` sequential tests) and written anew with the settings of their documentation, in their favour where there is
a choice. Users configure them otherwise, and Flagger's and Argo's are thresholds, not tests. They see all requests, not only
the judged ones. A rule answers with the second (since the rollout began) at whose end it rolls back, None if it never does.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log, sqrt

import numpy as np

from bench.detection.world import Bools, Floats, Second, World
from canaryproxy.analysis.sample import T_HANG

MINUTE = 60


class Record:
    """What the tools' own monitoring has of one run: counts of both variants (stable, canary) by second and by minute.

    `ended` and `failed` are (2, seconds); `p95` and `p99`, (2, minutes) in seconds, are of the answered requests; `exposed` and
    `affected`, (2, minutes), count users and those of them who saw a failure, each by the variant that he had first; a user who
    changed sides is left out, as GrowthBook does.
    """

    def __init__(self, world: World, seconds: int) -> None:
        self.seconds, minutes = seconds, seconds // MINUTE
        self.ended, self.failed = np.zeros((2, seconds + T_HANG + 1)), np.zeros((2, seconds + T_HANG + 1))
        self.p95, self.p99 = np.full((2, minutes), np.nan), np.full((2, minutes), np.nan)
        self.exposed, self.affected = np.zeros((2, minutes)), np.zeros((2, minutes))
        self._side = np.full(world.people, -1, np.int8)
        self._moved, self._failed = np.zeros(world.people, np.bool_), np.zeros(world.people, np.bool_)
        self._minute: list[tuple[Bools, Floats]] = []

    def add(self, second: int, requests: Second) -> None:
        """The requests that start in `second`, all of them."""
        user, canary, latency = requests.user, requests.canary, requests.latency
        hung = latency >= T_HANG
        failed = requests.failed | hung
        end = np.minimum(requests.start + np.minimum(latency, T_HANG), self.seconds + T_HANG).astype(np.int64)
        for arm, mine in enumerate((~canary, canary)):
            self.ended[arm] += np.bincount(end[mine], minlength=self.ended.shape[1])
            self.failed[arm] += np.bincount(end[mine & failed], minlength=self.ended.shape[1])
        new = self._side[user] < 0
        self._side[user[new]] = canary[new]
        self._moved[user[self._side[user] != canary]] = True
        self._failed[user[failed]] = True
        self._minute.append((canary[~hung], latency[~hung]))
        if (second + 1) % MINUTE == 0:
            self._close(second // MINUTE)

    def _close(self, minute: int) -> None:
        canary, latency = (np.concatenate(column) for column in zip(*self._minute, strict=True))
        self._minute = []
        for arm in (0, 1):
            if len(mine := latency[canary == bool(arm)]):
                self.p95[arm, minute], self.p99[arm, minute] = np.quantile(mine, (0.95, 0.99))
            users = (self._side == arm) & ~self._moved
            self.exposed[arm, minute] = np.count_nonzero(users)
            self.affected[arm, minute] = np.count_nonzero(users & self._failed)

    def success(self, minute: int) -> float | None:
        """The canary's success rate in `minute`; None without requests."""
        piece = slice(minute * MINUTE, (minute + 1) * MINUTE)
        ended = self.ended[1, piece].sum()
        return float(1 - self.failed[1, piece].sum() / ended) if ended else None


Rule = Callable[[Record], int | None]


def flagger(record: Record) -> int | None:
    """Success >= 99 % and p99 <= 500 ms each minute; the fifth failed check rolls back. Checks without data fail nothing here."""
    failures = 0
    for minute in range(record.seconds // MINUTE):
        success, p99 = record.success(minute), record.p99[1, minute]
        failures += (success is not None and success < 0.99) or bool(p99 > 0.5)
        if failures == 5:
            return (minute + 1) * MINUTE
    return None


def argo(failure_limit: int) -> Rule:
    """Success >= 95 % each minute; one failed measurement more than `failure_limit` aborts."""

    def rule(record: Record) -> int | None:
        failures = 0
        for minute in range(record.seconds // MINUTE):
            success = record.success(minute)
            failures += success is not None and success < 0.95
            if failures > failure_limit:
                return (minute + 1) * MINUTE
        return None

    return rule


def kayenta(record: Record) -> int | None:
    """Mann-Whitney at 98 %, tolerance 0.25, on five points of a minute, judged once for each five; error rate and p95."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ended, failed = (
            counts[:, : record.seconds].reshape(2, -1, MINUTE).sum(axis=2) for counts in (record.ended, record.failed)
        )
        rates = failed / ended
    for last in range(5, record.seconds // MINUTE + 1, 5):
        piece = slice(last - 5, last)
        if any(mann_whitney_high(points[0, piece], points[1, piece]) for points in (rates, record.p95)):
            return last * MINUTE
    return None


def mann_whitney_high(control: Floats, experiment: Floats) -> bool:
    """Kayenta's "High" for five points against five.

    With so few only complete separation is significant at 98 % (normal approximation: z = 2.51 against 2.33, the next lower
    rank sum has 2.30), and then the interval's lower end is the smallest of all differences.
    """
    if np.isnan(control).any() or np.isnan(experiment).any():
        return False
    differences = experiment[:, None] - control[None, :]
    return bool(differences.min() > 0.25 * abs(np.median(differences)))


def z_test(margin: float) -> Rule:
    """Two proportions, one-sided 1 %, peeked each second from 30 canary requests on; the null is "at most `margin` more"."""

    def rule(record: Record) -> int | None:
        (n_s, n_c), (x_s, x_c) = (np.cumsum(counts[:, : record.seconds], axis=1) for counts in (record.ended, record.failed))
        with np.errstate(invalid="ignore", divide="ignore"):
            p_s, p_c, pooled = x_s / n_s, x_c / n_c, (x_s + x_c) / (n_s + n_c)
            variance = pooled * (1 - pooled) * (1 / n_s + 1 / n_c)
            if margin:
                variance = p_s * (1 - p_s) / n_s + p_c * (1 - p_c) / n_c
            found = np.flatnonzero((n_c >= 30) & ((p_c - p_s - margin) / np.sqrt(variance) > 2.3263478740408408))
        return int(found[0]) + 1 if len(found) else None

    return rule


def growthbook(record: Record) -> int | None:
    """A guardrail, "users who saw a failure", by an asymptotic confidence sequence of the lift (5 %, N* = 5000), each minute."""
    alpha, tuned = 0.05, 5000
    rho2 = (-2 * log(alpha) + log(1 - 2 * log(alpha))) / tuned
    for minute in range(record.seconds // MINUTE):
        (n_s, n_c), (x_s, x_c) = record.exposed[:, minute], record.affected[:, minute]
        if min(x_s, x_c) < 1 or n_c < 2:
            continue
        m_s, m_c, n = x_s / n_s, x_c / n_c, n_s + n_c
        variance = m_c * (1 - m_c) / (m_s**2 * n_c) + m_s * (1 - m_s) * m_c**2 / (m_s**4 * n_s)
        width = sqrt(variance * n) * sqrt(2 * (n * rho2 + 1) / (n * n * rho2) * log(1 + sqrt(n * rho2 + 1) / (2 * alpha)))
        if m_c / m_s - 1 - width > 0:
            return (minute + 1) * MINUTE
    return None


PEERS: dict[str, Rule] = {
    "Flagger": flagger,
    "Argo, limit 0": argo(0),
    "Argo, limit 3": argo(3),
    "Kayenta": kayenta,
    "z-test": z_test(0.0),
    "z-test, 1 pp": z_test(0.01),
    "GrowthBook": growthbook,
}
