"""What a controller does when things go well, badly, and when the store, the workers or the controller itself do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from control_world import World, config, verdict

from canaryproxy.analysis.record import Opening
from canaryproxy.analysis.verdict import Action
from canaryproxy.config.quantities import Server
from canaryproxy.errors import IllegalTransitionError, NotFoundError
from canaryproxy.rollout.model import Pause, Phase, Promote, Resume, Rollback, SetWeight
from canaryproxy.routing.split import seat
from canaryproxy.shared.layout import Count

Make = Callable[..., World]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    worlds: list[World] = []

    def made(**options: Any) -> World:
        worlds.append(World(**options))
        return worlds[-1]

    yield made
    for world in worlds:
        await world.end()


async def test_a_start_is_saved_shown_and_acknowledged(make: Make) -> None:
    world = make()
    answer = await world.start()
    assert (answer.applied_by, answer.workers, answer.saved) == (2, 2, True)
    assert world.shown == (500, False)
    assert world.split.salt == answer.rollout.salt != 0
    assert world.store.kinds == ["start"]
    assert world.store.saved["shop"].rollout["phase"] == "progressing"
    assert world.judge.heard[-1] == "begin_rollout"


async def test_a_bad_canary_is_rolled_back_in_the_tick_that_finds_it(make: Make) -> None:
    world = make()
    await world.start()
    await world.ticks(3)
    world.judge.says = verdict(Action.ROLLBACK, "canary 8/402 failed")
    world.clock.advance(1)
    world.controller.tick()
    assert world.shown == (0, False)  # before anything was awaited
    await world.settled()
    assert world.phase is Phase.ROLLED_BACK
    assert world.route.rollout.reason == "canary 8/402 failed"
    _, decision = world.store.log[-1]
    assert decision.kind == "rollback"
    assert decision.data["verdict"]["metrics"]["error_rate"]["evidence"] == 7.0
    await world.ticks(2)
    assert world.judge.heard[-1] == "observe"


async def test_a_healthy_canary_is_promoted_and_becomes_stable(make: Make) -> None:
    world = make()
    await world.start()
    world.judge.says = verdict(Action.PROMOTE, "healthy")
    await world.ticks(61)
    assert (world.shown, world.route.rollout.step) == ((5000, False), 1)
    await world.ticks(61)
    assert (world.shown, world.phase) == ((10_000, False), Phase.BAKING)
    await world.ticks(61)
    assert (world.shown, world.phase) == ((0, True), Phase.PROMOTED)
    assert (world.route.rollout.stable, world.route.rollout.canary) == ("v2", "v1")
    assert "full" in world.judge.heard
    assert [kind for kind in world.store.kinds if kind != "verdict"] == ["start", "step", "bake", "promoted"]
    answer = await world.do(Rollback("regret"))
    assert world.shown == (0, False)
    assert answer.rollout.stable == "v1"


async def test_the_real_judge_finds_a_bad_canary_in_the_ledger(make: Make) -> None:
    world = make(scripted=False)

    def traffic(second: float) -> None:
        world.requests(second, 0, good=95)
        world.requests(second, 1, good=3, bad=2)

    await world.ticks(10, traffic=lambda second: world.requests(second, 0, good=100))
    await world.start()
    await world.ticks(20, traffic=traffic)
    assert world.phase is Phase.ROLLED_BACK
    assert world.shown == (0, False)
    assert "canary" in world.route.rollout.reason


async def test_the_real_judge_lets_a_healthy_canary_through(make: Make) -> None:
    world = make(scripted=False, settings=config(steps=[{"weight": "50%", "hold": "10s"}], bake="10s"))

    def traffic(second: float) -> None:
        weight_bp, swapped = world.shown
        world.requests(second, 0, good=100 - weight_bp // 100)
        world.requests(second, 1, good=weight_bp // 100)
        assert not swapped or not weight_bp

    await world.ticks(20, traffic=traffic)
    await world.start()
    await world.ticks(120, traffic=traffic)
    assert world.phase is Phase.PROMOTED, world.route.verdict


@pytest.mark.parametrize("seconds", [4, 9, 12, 40])
async def test_a_machine_that_stood_still_is_not_held_against_the_canary(
    make: Make, caplog: pytest.LogCaptureFixture, seconds: int
) -> None:
    world = make(scripted=False)

    def traffic(second: float) -> None:
        world.requests(second, 1, good=100)

    await world.ticks(10, traffic=lambda second: world.requests(second, 0, good=100))
    await world.start()
    await world.do(Promote(full=True))
    await world.ticks(30, traffic=traffic)
    held = world.route.rollout.held
    began = world.clock.monotonic()
    cohorts = [world.counters[1].begin(began + 0.1) for _ in range(50)]
    world.clock.advance(seconds)
    world.controller.tick()
    for cohort in cohorts:  # deadlines that passed meanwhile
        world.counters[1].finish(Count.CONNECT_TIMEOUT, cohort, seconds, failed=True)
    await world.ticks(1)
    assert world.route.rollout.held == held
    await world.ticks(20, traffic=traffic)
    assert (world.phase, world.route.rollout.held) == (Phase.BAKING, held + 20)
    assert f"route shop: the machine stood still for {seconds} s; these seconds are not judged" in caplog.messages
    assert world.route.standstills == 1


async def test_ticks_that_are_late_again_and_again_are_judged(make: Make) -> None:
    world = make()
    await world.start()
    world.judge.says = verdict(Action.ROLLBACK, "harm")
    for phase in (Phase.PROGRESSING, Phase.ROLLED_BACK):
        world.clock.advance(5)
        world.controller.tick()
        assert world.phase is phase


async def test_what_hung_in_a_rolled_back_rollout_is_not_held_against_the_next(make: Make) -> None:
    world = make(scripted=False)

    def traffic(second: float) -> None:
        world.requests(second, 0, good=95)
        world.requests(second, 1, good=5)

    await world.ticks(20, traffic=traffic)
    await world.start()
    for _ in range(50):
        world.counters[1].begin(world.clock.monotonic() + 0.1)
    await world.ticks(3, traffic=traffic)
    await world.do(Rollback("it hangs"))
    await world.do(world.controller.retry_event("shop"))
    await world.ticks(30, traffic=traffic)
    assert world.phase is Phase.PROGRESSING, world.route.rollout.reason


async def test_a_canary_that_nobody_reaches_is_told_of(make: Make) -> None:
    world = make(scripted=False)
    await world.start()
    await world.ticks(29)
    assert world.route.verdict is not None
    assert "no request of" not in world.route.verdict.sentence
    await world.ticks(2)
    assert world.route.verdict.sentence == "no request of an identified user reached the canary in the last 30 s"
    await world.ticks(1, traffic=lambda second: world.requests(second, 1, good=1))
    assert "no request of" not in world.route.verdict.sentence


async def test_a_rollback_before_the_start_stops_the_start_by_itself(make: Make) -> None:
    world = make(settings=config(auto_start=True))
    assert world.route.wants_auto_start()
    await world.do(Rollback("not this one"))
    assert not world.route.wants_auto_start()
    world.restart()
    assert not world.route.wants_auto_start()


# --- The store fails or hangs ---


async def test_the_end_waits_for_all_routes_at_once(make: Make) -> None:
    settings = config()
    routes = {**settings.routes, **{f"shop{n}": settings.routes["shop"] for n in range(3)}}
    world = make(settings=settings.model_copy(update={"routes": routes}))
    world.store.open.clear()
    begun = asyncio.get_running_loop().time()
    await world.controller.close()
    assert asyncio.get_running_loop().time() - begun < 3 * 0.05  # one limit, not four


async def test_a_rollback_is_applied_without_the_store_and_saved_later(make: Make) -> None:
    world = make()
    await world.start()
    world.store.failing = True
    answer = await world.do(Rollback("it smells"))
    assert (answer.saved, answer.applied_by, world.shown) == (False, 2, (0, False))
    assert world.route.saver.failing
    await world.ticks(2)
    assert world.store.saved["shop"].rollout["phase"] == "progressing"
    world.store.failing = False
    await world.ticks(1)
    assert world.store.saved["shop"].rollout["phase"] == "rolled_back"
    assert world.store.kinds == ["start", "rollback"]
    assert not world.route.saver.failing


async def test_a_rollback_does_not_wait_for_a_hanging_save(make: Make) -> None:
    world = make()
    await world.start()
    world.store.open.clear()
    asking = asyncio.create_task(world.do(Promote()))
    await asyncio.sleep(0)  # the save of the promotion hangs now
    world.route.handle(Rollback("stop"))
    assert world.shown == (0, False)
    answer = await asking
    assert (answer.saved, world.phase) == (False, Phase.ROLLED_BACK)
    world.store.open.set()
    await world.settled()
    assert world.shown == (0, False)  # the raise that hung was overtaken
    assert world.store.saved["shop"].rollout["phase"] == "rolled_back"
    assert world.store.kinds == ["start", "step", "rollback"]


async def test_a_raise_is_not_shown_until_it_is_saved(make: Make) -> None:
    world = make()
    await world.start()
    world.store.failing = True
    answer = await world.do(Promote())
    assert (answer.saved, answer.rollout.weight_bp, world.shown) == (False, 5000, (500, False))
    world.judge.says = verdict(Action.PROMOTE)
    await world.ticks(70)
    assert world.shown == (500, False)
    assert (world.phase, world.route.rollout.held) == (Phase.PROGRESSING, 0), "users who are not there prove nothing"
    world.store.failing = False
    await world.ticks(1)
    assert world.shown == (5000, False)
    await world.ticks(2)
    assert world.route.rollout.held > 0


async def test_users_are_told_up_to_the_moment_also_of_a_controller_that_has_not_ticked_yet(make: Make) -> None:
    world = make()
    await world.start()
    world.requests(world.clock.monotonic(), 1, 40, 3)
    assert world.route.users == pytest.approx((43, 3), abs=1)
    world.restart()
    assert world.route.users == pytest.approx((43, 3), abs=1)


async def test_a_raise_is_not_shown_by_the_save_of_an_earlier_decision(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make()
    await world.start()
    save = world.store.save

    def save_the_last_time(*state: Any) -> None:
        save(*state)
        world.store.failing = True

    monkeypatch.setattr(world.store, "save", save_the_last_time)
    world.store.open.clear()
    world.route.handle(Pause("lunch"))
    await asyncio.sleep(0)  # its save is on the way, and hangs
    world.route.handle(SetWeight(9000))
    world.store.open.set()
    await world.settled()
    assert world.store.saved["shop"].rollout["weight_bp"] == 500
    assert world.shown == (500, False)


async def test_a_failing_store_is_reported_once(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    world = make()
    await world.start()
    world.store.failing = True
    await world.ticks(12)
    world.store.failing = False
    await world.ticks(6)
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "not saved" in line]) == 1
    assert len([line for line in lines if "saved again" in line]) == 1
    assert world.route.saver.errors > 1


# --- The controller dies ---


async def test_a_restart_goes_on_where_it_was(make: Make) -> None:
    world = make(scripted=False)
    await world.ticks(10, traffic=lambda second: world.requests(second, 0, good=100))
    await world.start()
    await world.do(Promote())

    def traffic(second: float) -> None:
        world.requests(second, 0, good=50)
        world.requests(second, 1, good=50)

    await world.ticks(20, traffic=traffic)
    before, split, evidence = world.route.rollout, world.split, world.store.saved["shop"].evidence
    world.restart()
    after = world.route.rollout
    assert (after.step, after.weight_bp, after.salt) == (before.step, before.weight_bp, before.salt)
    assert before.held - 5 <= after.held <= before.held
    assert after.held > 10
    assert world.split == split
    assert evidence is not None
    evidence["canary"] |= {"open": [], "young": []}  # what was in flight is not counted on
    assert evidence | json.loads(json.dumps(world.route.judge.state())) == evidence
    await world.ticks(50, traffic=traffic)
    assert world.phase is Phase.BAKING


async def test_users_who_met_the_canary_before_a_restart_of_everything_are_not_forgotten(make: Make) -> None:
    world = make(scripted=False)
    await world.ticks(10, traffic=lambda second: world.requests(second, 0, good=100))
    await world.start()
    await world.ticks(6, traffic=lambda second: world.requests(second, 1, good=25, bad=1))
    sample = world.route.sample
    assert sample is not None
    before = sample.canary.users, sample.canary.hurt
    assert before[0] >= 20
    for index in range(len(world.segment.words)):
        world.segment.words[index] = 0  # another segment
    world._rows[0].enter(100, world.clock.monotonic())
    world.restart()
    await world.ticks(1)
    assert world.route.sample is not None
    assert (world.route.sample.canary.users, world.route.sample.canary.hurt) == before


async def test_a_salt_is_drawn_where_none_was_saved_and_never_used_twice(make: Make) -> None:
    world = make()
    salts = []
    for _ in range(3):
        await world.start()
        salts.append(world.split.salt)
        await world.do(Rollback("again"))
        evidence = world.store.saved["shop"].evidence
        assert evidence is not None
        del evidence["next_salt"]  # as an older version's state has none
        world.restart()
        await world.ticks(1)
        assert world.board.next_salt(1) not in (0, *salts)
    assert len({0, *salts}) == 4


async def test_what_was_in_flight_at_a_standstill_is_waited_for_by_nobody_and_the_replay_is_told(make: Make) -> None:
    world = make(scripted=False)
    await world.ticks(10, traffic=lambda second: world.requests(second, 0, good=100))
    await world.start()
    for number in range(30):
        world.counters[1].begin(world.clock.monotonic() + 0.1, seat(world.split.salt, b"user %d" % number))
    await world.ticks(2)
    assert world.route.judge.state()["canary"]["open"]
    world.clock.advance(9)
    world.controller.tick()
    assert world.route.standstills == 1
    assert not world.route.judge.state()["canary"]["open"]
    assert isinstance(world.route.journal.take().loose[-1].entry, Opening)


async def test_a_restart_does_not_undo_a_rollback_that_was_not_saved(make: Make) -> None:
    world = make()
    await world.start()
    world.store.failing = True
    await world.do(Rollback("now"))
    world.restart()
    assert (world.phase, world.shown) == (Phase.ROLLED_BACK, (0, False))
    world.store.failing = False
    await world.ticks(1)
    assert world.store.saved["shop"].rollout["phase"] == "rolled_back"
    assert world.store.kinds == ["start", "rollback"]


async def test_a_restart_does_not_undo_the_rollback_of_a_promotion(make: Make) -> None:
    world = make()
    await world.start()
    await world.do(Promote(full=True))
    await world.do(Promote())
    assert world.shown == (0, True)
    world.store.failing = True
    await world.do(Rollback("regret"))
    world.restart()
    assert (world.phase, world.shown, world.route.rollout.stable) == (Phase.ROLLED_BACK, (0, False), "v1")


async def test_a_restart_keeps_a_promotion(make: Make) -> None:
    world = make()
    await world.start()
    await world.do(Promote(full=True))
    await world.do(Promote())
    world.board.publish(1, 10_000, swapped=False, salt=world.split.salt)  # killed between the save and the board
    world.restart()
    assert (world.phase, world.shown) == (Phase.PROMOTED, (0, True))


# --- People ---


async def test_an_impossible_verb_changes_nothing(make: Make) -> None:
    world = make()
    with pytest.raises(IllegalTransitionError, match="possible now: start, rollback"):
        await world.do(Resume())
    with pytest.raises(NotFoundError, match="there is shop"):
        await world.controller.submit("shoop", Pause())
    assert world.store.kinds == []


async def test_a_rollback_where_there_is_nothing_to_roll_back_is_no_error(make: Make) -> None:
    world = make()
    answer = await world.do(Rollback(""))
    assert (answer.saved, answer.rollout.phase) == (True, Phase.IDLE)


async def test_workers_that_do_not_obey_are_told_of(make: Make) -> None:
    world = make()
    await world.start()
    world.obeying = False
    await asyncio.sleep(0.003)
    answer = await world.do(SetWeight(100))
    assert (answer.applied_by, answer.workers) == (0, 2)
    assert world.shown == (100, False)


async def test_a_pause_never_disarms_the_rollback(make: Make) -> None:
    world = make()
    await world.start()
    await world.do(Pause("lunch"))
    await world.ticks(2)
    world.judge.says = verdict(Action.ROLLBACK, "harm")
    await world.ticks(1)
    assert (world.phase, world.shown) == (Phase.ROLLED_BACK, (0, False))


async def test_verdicts_are_put_on_record_when_they_change_not_each_second(make: Make) -> None:
    world = make()
    await world.start()
    await world.ticks(20)
    assert world.store.kinds == ["start"]
    world.judge.says = verdict(Action.PROMOTE, "healthy")
    await world.ticks(20)
    assert world.store.kinds == ["start", "verdict"]


async def test_a_rollout_starts_by_itself_once_its_canary_is_there(make: Make) -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = config(auto_start=True)
    pools = {**settings.pools, "v2": settings.pools["v2"].model_copy(update={"servers": (Server("127.0.0.1", port),)})}
    absent = make(settings=settings)
    present = make(settings=settings.model_copy(update={"pools": pools}))
    for world in (absent, present):
        world.controller.tick()
        await asyncio.gather(*world.controller.probes.values())
    assert (absent.phase, present.phase) == (Phase.IDLE, Phase.PROGRESSING)
    await present.do(Rollback("no"))
    present.restart()
    present.controller.tick()
    assert not present.controller.probes
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("started", [True, False])
async def test_a_rollback_takes_beta_groups_off_before_it_is_saved(make: Make, *, started: bool) -> None:
    """At any weight, and before the start too."""
    world = make()
    seen = []
    if started:
        await world.start()
        await world.do(SetWeight(0))
    seen.append(world.split.overrides)
    world.store.open.clear()
    world.route.handle(Rollback("bad"))
    seen.append(world.split.overrides)
    assert world.shown == (0, False)
    world.store.open.set()
    await world.settled()
    world.route.handle(world.controller.start_event("shop"))
    seen.append(world.split.overrides)
    await world.settled()
    seen.append(world.split.overrides)
    assert seen == [True, False, False, True], "and a canary that was rolled back gets nobody before that is on disk"
