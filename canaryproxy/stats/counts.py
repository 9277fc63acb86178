"""How much the split of a block's events between two arms speaks against "canary's rate is at least `null` of stable's". Pure.

Given their number, events of two Poisson streams fall to the canary by a binomial whose chance depends only on its expected share
of the events and on the ratio of the rates (Lindon and Malek, arXiv 2011.03567, two arms): the common rate, and whatever it does
with the time of day, cancels. `share` must come from earlier data only. In natural logarithms.
"""

from __future__ import annotations

from math import log


def share_at(ratio: float, share: float) -> float:
    """The canary's share of the events where its rate is `ratio` times stable's and its expected share is `share` (0..1)."""
    return ratio * share / (ratio * share + 1 - share)


def log_e_drop(ratio: float, null: float, share: float, stable: float, canary: float) -> float:
    """log e against "rate at least `null` times stable's", betting on `ratio` < `null`; 0 where there is nothing to compare.

    For every true rate above the null the expected value is below 1: the likelihood ratio falls in the canary's count.
    """
    if not 0 < share < 1 or ratio >= null:
        return 0.0
    bet, limit = share_at(ratio, share), share_at(null, share)
    return canary * log(bet / limit) + stable * log((1 - bet) / (1 - limit))
