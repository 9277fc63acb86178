"""How much more than independent requests do users cluster: design effects, from groups of users. Pure.

Requests of one user are alike, so n requests say less than n strangers would. The factor by which the variance of a count exceeds
the binomial's (Kish 1965, section 5.4) raises the evidence that is asked for. Measured on stable, which no canary touches,
without its oddest groups: a few bots must not make everybody blind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

#: Groups left out, those with the most events: so many, or this share of them (docs/decisions/0009).
_TRIMMED, _TRIMMED_SHARE = 2, 0.02
#: Added above and below, in events: with little data the effect is 1.
_SHRINK = 20.0


def design_effect(groups: Sequence[tuple[float, float]]) -> float:
    """At least 1, from (requests, events) of each active group: sum (x - p n)^2 B/(B-1) over n p (1 - p), shrunk to 1."""
    active = sorted((group for group in groups if group[0] > 0), key=lambda group: -group[1])
    kept = active[_trimmed(len(active)) :]
    if len(kept) < 2:
        return 1.0
    requests, events = sum(n for n, _ in kept), sum(x for _, x in kept)
    p = events / requests
    spread = sum((x - p * n) ** 2 for n, x in kept) * len(kept) / (len(kept) - 1)
    return max(1.0, (spread + _SHRINK) / (requests * p * (1 - p) + _SHRINK))


def drift_effect(before: Mapping[int, float], now: Mapping[int, float]) -> float:
    """The same for counts: how much more the groups' traffic moves from one period to the next than Poisson's would."""
    both = sorted(((before[group], now.get(group, 0.0)) for group in before), key=lambda pair: -max(pair))
    both = both[_trimmed(len(both)) :]
    expected, seen = sum(pair[0] for pair in both), sum(pair[1] for pair in both)
    if len(both) < 2 or not expected:
        return 1.0
    ratio = seen / expected
    spread = sum((x - ratio * m) ** 2 for m, x in both)
    return max(1.0, (spread + _SHRINK) / (seen + ratio * ratio * expected + _SHRINK))


def _trimmed(groups: int) -> int:
    return max(_TRIMMED, round(_TRIMMED_SHARE * groups))
