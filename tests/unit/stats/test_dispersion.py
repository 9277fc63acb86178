from __future__ import annotations

from random import Random

import pytest

from canaryproxy.stats.dispersion import design_effect, drift_effect


def _binomial(rng: Random, n: int, p: float) -> int:
    return sum(rng.random() < p for _ in range(n))


def test_independent_requests_have_none() -> None:
    rng = Random(1)
    found = [design_effect([(60, _binomial(rng, 60, 0.02)) for _ in range(256)]) for _ in range(20)]
    assert max(found) < 1.25
    assert min(found) == 1.0


def test_it_grows_with_how_alike_users_are() -> None:
    """A share of the groups fails wholly: each event brings n - 1 others, so the effect is about n."""
    rng = Random(2)
    found = []
    for alike in (0.0, 0.2, 0.5, 0.9):
        groups = []
        for _ in range(256):
            p = (rng.random() < 0.05) if rng.random() < alike else 0.05
            groups.append((60, _binomial(rng, 60, p)))
        found.append(design_effect(groups))
    assert found == sorted(found)
    assert found[0] < 1.3
    assert found[-1] > 15


def test_a_few_bots_do_not_raise_it() -> None:
    rng = Random(3)
    groups = [(60, _binomial(rng, 60, 0.002)) for _ in range(254)]
    bots = [(1500, 1500), (900, 900)]
    assert design_effect([*groups, *bots]) < 1.2
    assert design_effect([*groups, *bots, *bots]) < 1.2
    assert design_effect([*groups, *bots, *bots, *bots]) > 5


def test_it_is_the_textbooks_ratio_where_nothing_is_trimmed_or_shrunk() -> None:
    """Kish: the variance of group counts over the binomial's, here with so many events that 20 more do not matter."""
    groups = [(1000.0, x) for x in (500.0, 500.0, 400.0, 450.0, 350.0, 400.0)]
    kept = [400.0, 450.0, 350.0, 400.0]
    spread = sum((x - 400) ** 2 for x in kept) * 4 / 3
    assert design_effect(groups) == pytest.approx((spread + 20) / (4000 * 0.4 * 0.6 + 20))


@pytest.mark.parametrize("groups", [[], [(5, 5)], [(5, 5)] * 3, [(0, 0)] * 50, [(7, 0)] * 50, [(7, 7)] * 50])
def test_where_there_is_nothing_to_measure_it_is_1(groups: list[tuple[float, float]]) -> None:
    assert design_effect(groups) == 1.0


def _poisson(rng: Random, mean: float) -> int:
    return _binomial(rng, int(mean * 20), 1 / 20)


def test_traffic_that_is_only_poisson_does_not_drift_and_a_common_rise_is_none() -> None:
    rng = Random(4)
    usual = [rng.uniform(20, 60) for _ in range(256)]
    before = {group: float(_poisson(rng, mean)) for group, mean in enumerate(usual)}
    now = {group: float(_poisson(rng, 1.7 * mean)) for group, mean in enumerate(usual)}
    assert drift_effect(before, now) < 1.25


def test_users_who_come_and_go_make_it_drift() -> None:
    rng = Random(5)
    before = {group: float(_poisson(rng, 40)) for group in range(256)}
    now = {group: float(_poisson(rng, rng.choice((5, 75)))) for group in range(256)}
    assert drift_effect(before, now) > 5
    one_bot = before | {7: 20_000.0}
    assert drift_effect(before, one_bot) < 1.1
    assert drift_effect({}, now) == 1.0
    assert drift_effect(before, {}) < 1.3
