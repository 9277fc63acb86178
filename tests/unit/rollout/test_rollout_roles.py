"""Who decides the roles after a restart."""

from __future__ import annotations

from dataclasses import replace

from canaryproxy.config.load import from_flags
from canaryproxy.config.schema import Route
from canaryproxy.rollout.machine import advance
from canaryproxy.rollout.model import Phase, Plan, Promote, Rollback, Rollout, SetWeight, Start
from canaryproxy.rollout.roles import reconcile

FILE = Route(stable="v1", canary="v2")
PLAN = Plan.from_config(FILE.rollout)
NOW = 1_700_000_000.0


def begun() -> Rollout:
    fresh, sentence = reconcile(None, "shop", FILE)
    assert sentence is None
    assert fresh == Rollout("shop", "v1", "v2", "v1", "v2", PLAN)
    return advance(fresh, Start(PLAN, 7), NOW)[0]


def promoted() -> Rollout:
    baking, _ = advance(begun(), Promote(full=True), NOW)
    return advance(baking, Promote(), NOW)[0]


def test_a_rollout_in_progress_goes_on_where_it_was() -> None:
    held, _ = advance(begun(), SetWeight(700), NOW)
    kept, sentence = reconcile(held, "shop", FILE)
    assert kept == held
    assert sentence == "route shop: goes on paused at step 2 of 4, 7% of users to v2"


def test_a_promotion_outlives_the_restart_although_the_file_still_names_the_old_roles() -> None:
    kept, sentence = reconcile(promoted(), "shop", FILE)
    assert (kept.stable, kept.canary, kept.phase) == ("v2", "v1", Phase.PROMOTED)
    assert sentence == (
        "route shop: stable v2 and canary v1 as recorded (promoted), although the file says stable v1 and canary v2"
    )


def test_a_rolled_back_version_stays_rolled_back() -> None:
    back, _ = advance(begun(), Rollback("no"), NOW)
    assert reconcile(back, "shop", FILE) == (back, None)
    back, _ = advance(promoted(), Rollback("late regret"), NOW)
    assert reconcile(back, "shop", FILE) == (back, None)


def test_other_pools_in_the_file_win_and_the_route_is_idle() -> None:
    fresh, sentence = reconcile(promoted(), "shop", Route(stable="v2", canary="v3"))
    assert (fresh.stable, fresh.canary, fresh.file_stable, fresh.file_canary) == ("v2", "v3", "v2", "v3")
    assert (fresh.phase, fresh.weight_bp, fresh.settled) == (Phase.IDLE, 0, ("v2",))
    assert fresh.revision > promoted().revision
    assert sentence == (
        "route shop: stable v2 and canary v3 take the place of stable v2 and canary v1: what was recorded (promoted) is over"
    )
    assert reconcile(fresh, "shop", Route(stable="v2", canary="v3")) == (fresh, None)


def test_the_next_version_by_flags_is_not_taken_for_the_one_that_was_promoted() -> None:
    v1, v2, v3 = (f"http://127.0.0.1:{port}" for port in (8001, 8002, 8003))
    first, _ = reconcile(None, "default", from_flags(v1, v2).routes["default"])
    baking, _ = advance(advance(first, Start(PLAN, 7), NOW)[0], Promote(full=True), NOW)
    done, _ = advance(baking, Promote(), NOW)
    again, _ = reconcile(done, "default", from_flags(v1, v2).routes["default"])
    assert (again.phase, again.stable) == (Phase.PROMOTED, "127.0.0.1-8002")
    fresh, sentence = reconcile(done, "default", from_flags(v2, v3).routes["default"])
    assert (fresh.phase, fresh.stable, fresh.canary, fresh.weight_bp) == (Phase.IDLE, "127.0.0.1-8002", "127.0.0.1-8003", 0)
    assert fresh.canary not in fresh.settled
    assert "stable 127.0.0.1-8002 and canary 127.0.0.1-8003 take the place of" in str(sentence)


def test_a_file_without_a_canary_ends_the_rollout() -> None:
    fresh, sentence = reconcile(begun(), "shop", Route(stable="v1"))
    assert (fresh.phase, fresh.weight_bp, fresh.canary) == (Phase.IDLE, 0, None)
    assert sentence is not None
    assert "stable v1 and no canary take the place of stable v1 and canary v2" in sentence


def test_a_file_brought_up_to_date_with_the_record_keeps_what_was_recorded() -> None:
    kept, sentence = reconcile(promoted(), "shop", Route(stable="v2", canary="v1"))
    assert kept == replace(promoted(), file_stable="v2", file_canary="v1")
    assert sentence is None
    assert advance(kept, Rollback("late regret"), NOW)[0].stable == "v1"


def test_an_idle_route_takes_the_plan_of_the_file() -> None:
    fresh, _ = reconcile(None, "shop", FILE)
    changed = Route.model_validate({"stable": "v1", "canary": "v2", "rollout": {"bake": "1h"}})
    assert reconcile(fresh, "shop", changed)[0].plan.bake == 3600
    assert reconcile(begun(), "shop", changed)[0].plan == PLAN, "a rollout in progress keeps the plan it was started with"
