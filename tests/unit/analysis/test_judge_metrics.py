"""Every metric but errors and the p95: that it acts, when it does not, and what it says of it."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest
from judged_world import COLD, DEFAULT, HEALTHY, NONE, STABLE, a_judge, a_tick, actions, arm, groups, of, run, until

from canaryproxy.analysis.judge import Judge
from canaryproxy.analysis.sample import SIZE_COLUMNS, ArmTick, Cohort
from canaryproxy.analysis.settings import (
    ERROR_MARGIN_SHARE,
    HARM_SHARES,
    LATENCY_MARGIN_SHARE,
    FloorRule,
    GoalRule,
    JudgeSettings,
    LatencyRule,
    Rule,
)
from canaryproxy.analysis.verdict import Action, Outcome
from canaryproxy.stats.histogram import index

_BAD = {Action.ROLLBACK, Action.PAUSE}


class TestAlpha:
    def test_it_is_spent_once(self) -> None:
        assert sum(HARM_SHARES.values()) + ERROR_MARGIN_SHARE + LATENCY_MARGIN_SHARE == pytest.approx(1)

    @pytest.mark.parametrize("strict", [False, True])
    def test_each_claim_that_can_roll_back_has_its_own_part_and_acts_no_earlier(self, strict: bool) -> None:
        """Every rule set to roll back: what claims act at, in shares of alpha, adds up to no more than 1."""
        settings = JudgeSettings(
            client_errors=Rule(0.02),
            response_size=Rule(0.02),
            success_floor=FloorRule(action=Action.ROLLBACK),
            latency=(LatencyRule(), LatencyRule("latency_p50", 0.5), LatencyRule("latency_p99", 0.99)),
            goals=(GoalRule("order"), GoalRule("signup")),
            strict_margin=strict,
        )
        judge = Judge(settings)
        judge.begin_rollout()
        total = 0.0
        for metric in judge._metrics:
            spec = getattr(metric, "spec", None)
            stakes = list(metric.stakes())
            total += sum(stake.share for stake in stakes)
            if spec is None:
                (stake,) = stakes
                assert of(run(judge, NONE), metric.name).threshold == pytest.approx(settings.harm_threshold(stake.share))
                continue
            for clause in spec.clauses:
                if clause.action is Action.ROLLBACK:
                    share = spec.shares[clause.claim]
                    assert spec.harms[clause.claim].threshold >= settings.harm_threshold(share) - 1e-9, (spec.name, clause)
        assert 0.9 - 0.35 * strict < total <= 1 + 1e-9

    def test_what_cannot_roll_back_has_no_part(self) -> None:
        judge = Judge(replace(DEFAULT, error_rate=Rule(0.01, Action.WARN), stalls=Rule(0.01, dry_run=True)))
        parts = {metric.name: [stake.share for stake in metric.stakes()] for metric in judge._metrics}
        assert parts["error_rate"] == parts["stalls"] == parts["client_errors"] == parts["response_size"] == []
        assert parts["throughput"] == [0.07]


class TestTogether:
    def test_two_metrics_with_most_of_the_evidence_each_roll_back_together(self) -> None:
        judge = a_judge()
        for number in range(200):
            verdict = run(judge, arm(10, number % 4 == 0, stalled=number % 2 == 0))
            if verdict.action in _BAD:
                break
        assert verdict.action is Action.ROLLBACK
        errors, stalls = of(verdict, "error_rate"), of(verdict, "stalls")
        assert errors.evidence < errors.threshold
        assert stalls.evidence < stalls.threshold
        assert "enough together with the other metrics'" in verdict.sentence
        judge = a_judge()
        for number in range(23):
            assert run(judge, arm(10, stalled=number % 2 == 0)).action not in _BAD

    def test_alone_small_harm_is_still_small(self) -> None:
        for rate in (4, 6, 8):
            judge = a_judge()
            verdict = run(judge, arm(1000, rate))
            while verdict.action is not Action.PAUSE:
                assert verdict.action is not Action.ROLLBACK, verdict.sentence
                verdict = run(judge, arm(1000, rate))
            assert run(judge, arm(1000, rate), ticks=60).action is Action.PAUSE

    def test_strict_means_the_whole_margin(self) -> None:
        strict = replace(COLD, strict_margin=True)
        verdict = until(a_judge(strict), arm(100, 2), Action.PAUSE)
        assert of(verdict, "error_rate").evidence > COLD.harm_threshold(0.35)
        verdict = until(a_judge(strict), arm(100, 5), Action.ROLLBACK)
        assert "for more than 1 pp of harm (acts at 2000)" in verdict.sentence


class TestStalls:
    def test_hangs_are_found(self) -> None:
        verdict = until(a_judge(replace(COLD, latency=())), arm(100, stalled=6), Action.ROLLBACK, ticks=20)
        assert "canary " in verdict.sentence
        assert "hung (6.0 %), stable 0/" in verdict.sentence
        assert "to 1 for more than 1 pp of harm (acts at 1000)" in verdict.sentence

    def test_the_threshold_is_five_times_stables_p95_between_one_second_and_ten(self) -> None:
        assert a_judge().questions["stalls"] == (1_000_000,)
        slow = replace(STABLE, latency={index(800_000): 1000})
        assert a_judge(stable=slow).questions["stalls"][0] == pytest.approx(4_000_000, rel=0.02)
        assert a_judge(stable=replace(STABLE, latency={index(9_000_000): 1000})).questions["stalls"] == (10_000_000,)

    def _pile(self, waiting: int) -> ArmTick:
        return ArmTick(began=10, in_flight=waiting, users=50)

    def test_a_pile_and_no_answer_for_3_seconds_roll_back(self) -> None:
        judge = a_judge()
        run(judge, arm(10), ticks=10)
        assert actions(judge, self._pile(60), 2) <= {Action.CONTINUE}
        verdict = run(judge, self._pile(60))
        assert verdict.action is Action.ROLLBACK
        assert verdict.sentence == "canary has answered nothing for 3 s and 60 requests wait for it"

    def test_one_answer_or_a_small_pile_does_not(self) -> None:
        judge = a_judge()
        run(judge, arm(10), ticks=10)
        assert actions(judge, self._pile(20), 10) <= {Action.CONTINUE}
        run(judge, arm(10))
        for _ in range(5):
            assert actions(judge, self._pile(60), 2) <= {Action.CONTINUE}
            run(judge, arm(10))

    def test_a_service_whose_answers_take_5_seconds_is_not_silent(self) -> None:
        slow = replace(STABLE, latency={index(5_000_000): 1000})
        judge = a_judge(stable=slow)
        assert actions(judge, self._pile(45), 6, stable=slow) <= {Action.CONTINUE}
        assert run(judge, self._pile(100), 5, stable=slow).action is Action.ROLLBACK, "silent for longer than any answer takes"

    def test_a_hang_that_stable_shares_is_not_the_canarys(self) -> None:
        judge = a_judge()
        run(judge, arm(10), ticks=10)
        assert actions(judge, self._pile(60), 10, stable=ArmTick(began=1000, in_flight=5000)).isdisjoint(_BAD)
        verdict = run(judge, self._pile(60), 3, stable=NONE, full_weight=True)
        assert verdict.action is Action.ROLLBACK, "without stable traffic there is nobody who could share it"

    def test_as_a_dry_run_it_warns(self) -> None:
        judge = a_judge(replace(COLD, stalls=Rule(0.01, dry_run=True)))
        run(judge, arm(10), ticks=10)
        assert run(judge, self._pile(60), ticks=3).action is Action.WARN


class TestThroughput:
    def _began(self, count: int) -> ArmTick:
        return replace(HEALTHY, began=count)

    def test_a_collapse_is_found_at_once(self) -> None:
        judge = a_judge()
        verdict = run(judge, self._began(0), share=0.1, ticks=2)
        assert verdict.action is Action.ROLLBACK
        assert verdict.sentence.startswith("in the last 5 s canary 0 requests, 222 expected (0 %), evidence over a million to 1")
        assert verdict.sentence.endswith("for a drop (acts at 1429)")

    def test_half_must_last_for_10_seconds(self) -> None:
        judge = a_judge()
        seen = [run(judge, self._began(50), share=0.1).action for _ in range(30)]
        assert 9 <= seen.index(Action.ROLLBACK) <= 15
        judge = a_judge()
        run(judge, self._began(50), share=0.1, ticks=5)
        run(judge, self._began(112), share=0.1, ticks=30)
        assert run(judge, self._began(112), share=0.1).action is not Action.ROLLBACK

    def test_a_weight_that_rises_in_mid_tick_is_no_collapse(self) -> None:
        """The board says the new weight, and nearly all of the tick was under the old one."""
        settings = replace(COLD, goals=(GoalRule("order"),))
        judge = a_judge(settings)
        before = replace(arm(10), goals=(10,))
        stable = replace(STABLE, goals=(990,))
        for _ in range(30):
            judge.judge(a_tick(stable, before, 0.01, 0.01), full_weight=False)
        judge.begin_step()
        verdict = judge.judge(a_tick(stable, before, 0.5, 0.5), full_weight=False)
        assert verdict.action not in _BAD, verdict.sentence
        after, half = replace(arm(500), goals=(500,)), replace(arm(500), groups={}, users=0, goals=(500,))
        for _ in range(30):
            verdict = judge.judge(a_tick(half, after, 0.5, 0.5), full_weight=False)
            assert verdict.action not in _BAD, verdict.sentence
        assert of(verdict, "throughput").numbers["expected"] == pytest.approx(30 * 500)

    def test_ten_percent_less_is_within_the_margin(self) -> None:
        judge = a_judge()
        for _ in range(120):
            assert run(judge, self._began(100), share=0.1).action not in _BAD

    def test_where_the_share_is_unknown_only_a_collapse_counts(self) -> None:
        for count, acts in ((50, False), (15, True)):
            judge = a_judge()
            seen = {run(judge, self._began(count), weight=0.1).action for _ in range(60)}
            assert (Action.ROLLBACK in seen) is acts

    def test_a_share_at_the_end_is_not_divided_by(self) -> None:
        for share in (0.0, 1.0):
            assert run(a_judge(), self._began(0), share=share, ticks=5).action not in _BAD
        assert run(a_judge(), self._began(0), weight=1.0, stable=NONE, full_weight=True, ticks=5).action not in _BAD


class TestGoals:
    _RULES = (GoalRule("orders"), GoalRule("signups", 0.2))
    _SETTINGS = replace(COLD, goals=_RULES)

    def _arms(self, canary: int) -> tuple[ArmTick, ArmTick]:
        return replace(STABLE, goals=(45, 45)), replace(HEALTHY, goals=(5, canary))

    def _play(self, judge: Judge, canary: int, ticks: int) -> list[Action]:
        stable, arm_ = self._arms(canary)
        return [run(judge, arm_, stable=stable).action for _ in range(ticks)]

    def test_a_drop_pauses_when_it_is_proven_and_rolls_back_when_it_is_a_trend(self) -> None:
        judge = a_judge(self._SETTINGS)
        seen = self._play(judge, 1, 200)
        pause, rollback = seen.index(Action.PAUSE), seen.index(Action.ROLLBACK)
        assert pause < 60
        assert set(seen[pause:rollback]) == {Action.PAUSE}
        assert rollback == 179
        stable, arm_ = self._arms(1)
        verdict = run(judge, arm_, stable=stable)
        assert verdict.sentence.startswith("canary 200 conversions, 900 expected (22 %), evidence over a million to 1")
        assert verdict.sentence.endswith("for a drop (acts at 2500), in 3 windows in a row")
        assert of(verdict, "orders").outcome is Outcome.PASS

    def test_within_the_margin_it_is_never_rolled_back(self) -> None:
        judge = a_judge(replace(COLD, goals=(GoalRule("orders"), GoalRule("signups", 0.3))))
        assert Action.ROLLBACK not in self._play(judge, 4, 300)

    def test_a_step_begins_the_trend_anew(self) -> None:
        judge = a_judge(self._SETTINGS)
        self._play(judge, 1, 170)
        judge.begin_step()
        assert self._play(judge, 1, 100) == [Action.PAUSE] * 100

    def test_as_many_as_expected_is_well(self) -> None:
        judge = a_judge(self._SETTINGS)
        assert _BAD.isdisjoint(self._play(judge, 5, 600))

    def test_it_warns_where_it_is_to_warn(self) -> None:
        judge = a_judge(replace(COLD, goals=(GoalRule("o", action=Action.WARN), GoalRule("s", action=Action.WARN))))
        assert _BAD.isdisjoint(self._play(judge, 0, 200))
        stable, arm_ = self._arms(0)
        assert of(run(judge, arm_, stable=stable), "s").action is Action.WARN

    def test_goals_divide_their_part_of_alpha(self) -> None:
        one = of(run(a_judge(replace(COLD, goals=self._RULES[:1])), HEALTHY), "orders").threshold
        assert one == pytest.approx(COLD.harm_threshold(0.08))
        assert of(run(a_judge(self._SETTINGS), HEALTHY), "orders").threshold == pytest.approx(COLD.harm_threshold(0.04))

    def test_a_goal_that_is_not_reported_yet_is_zero(self) -> None:
        assert run(a_judge(self._SETTINGS), HEALTHY, ticks=60).action not in _BAD


class TestClientErrors:
    def test_many_pause_and_429_are_told_apart(self) -> None:
        stable = replace(STABLE, refused=20)
        judge = a_judge(stable=stable)
        verdict = until(judge, replace(HEALTHY, refused=2, limited=8), Action.PAUSE, stable=stable, ticks=40)
        assert "answered 4xx (10 %), stable " in verdict.sentence
        limited = of(verdict, "client_errors").numbers["canary"]["limited"]
        assert verdict.sentence.endswith(f"; {limited:.0f} of them 429")
        assert of(verdict, "client_errors").numbers["canary"]["refused"] == limited / 0.8

    def test_without_429_they_are_not_mentioned(self) -> None:
        verdict = until(a_judge(), replace(HEALTHY, refused=10), Action.PAUSE, ticks=40)
        assert "429" not in verdict.sentence

    def test_as_many_as_stables_do_nothing(self) -> None:
        stable = replace(STABLE, refused=150, limited=50)
        judge = a_judge(stable=stable)
        assert _BAD.isdisjoint(actions(judge, replace(HEALTHY, refused=15, limited=5), 200, stable=stable))


class TestResponseSize:
    @staticmethod
    def _sizes(columns: dict[int, int], size_class: int = 7) -> dict[int, int]:
        return {size_class * SIZE_COLUMNS + column: count for column, count in columns.items()}

    def test_short_bodies_pause(self) -> None:
        stable = replace(STABLE, sizes=self._sizes({12: 900, 13: 100}))  # 2 to 8 kB
        judge = a_judge(stable=stable)
        short = replace(HEALTHY, sizes=self._sizes({0: 5, 10: 5, 12: 90}))
        verdict = until(judge, short, Action.PAUSE, stable=stable, ticks=60)
        assert "were empty or short (10 %), stable 0/" in verdict.sentence
        assert "for more than 1 pp of harm (acts at 3333)" in verdict.sentence

    def test_half_as_long_is_not_short(self) -> None:
        stable = replace(STABLE, sizes=self._sizes({12: 900, 13: 100}))
        judge = a_judge(stable=stable)
        assert _BAD.isdisjoint(actions(judge, replace(HEALTHY, sizes=self._sizes({11: 100})), 120, stable=stable))

    def test_a_class_is_compared_with_itself_only(self) -> None:
        stable = replace(STABLE, sizes=self._sizes({12: 900}, 7) | self._sizes({3: 100}, 8))
        judge = a_judge(stable=stable)
        other = replace(HEALTHY, sizes=self._sizes({12: 50}, 7) | self._sizes({3: 20}, 8) | self._sizes({0: 30}, 9))
        assert _BAD.isdisjoint(actions(judge, other, 120, stable=stable))

    def test_limits_are_from_the_past(self) -> None:
        """What stable sends in a tick does not say what is short in that tick."""
        judge = a_judge(stable=replace(STABLE, sizes=self._sizes({12: 100})))
        short = replace(HEALTHY, sizes=self._sizes({10: 100}))
        state = judge.state()
        found = []
        for columns in ({12: 100}, {10: 100}):
            again = Judge(COLD, state)
            verdict = again.judge(
                replace(a_tick(replace(STABLE, sizes=self._sizes(columns)), short), elapsed=5.0), full_weight=False
            )
            found.append(of(verdict, "response_size").numbers["canary"])
        assert found == [{"requests": 100, "short": 100}] * 2


class TestSuccessFloor:
    _SETTINGS = replace(COLD, success_floor=FloorRule(0.99))

    def test_both_bad_is_seen_by_it_alone(self) -> None:
        judge = a_judge(self._SETTINGS)
        seen = [of(run(judge, arm(100, 10), stable=arm(1000, 100)), "success_floor") for _ in range(10)]
        assert seen[-1].action is Action.PAUSE
        assert seen[-1].sentence.startswith(
            "canary 100/1000 failed (10 %), at most 1.0 % allowed, evidence over a million to 1 (acts at 5000), "
        )
        assert seen[-1].sentence.endswith(" users")

    def test_above_the_floor_nothing_is_said(self) -> None:
        judge = a_judge(self._SETTINGS)
        for _ in range(200):
            verdict = run(judge, arm(100, 1), stable=arm(1000, 10))
            assert of(verdict, "success_floor").outcome is Outcome.PASS

    def test_it_can_roll_back(self) -> None:
        settings = replace(COLD, success_floor=FloorRule(0.9, Action.ROLLBACK), error_rate=Rule(0.01, dry_run=True))
        verdict = until(a_judge(settings), arm(100, 30), Action.ROLLBACK, ticks=10)
        assert "at most 10" in verdict.sentence

    def test_a_perfect_floor_is_possible(self) -> None:
        judge = a_judge(replace(COLD, success_floor=FloorRule(1.0)))
        assert run(judge, arm(100, 0), ticks=5).action not in _BAD
        assert of(run(judge, arm(100, 3), ticks=3), "success_floor").action is Action.PAUSE


class TestOtherQuantiles:
    _SETTINGS = replace(COLD, latency=(LatencyRule("latency_p50", 0.5), LatencyRule(), LatencyRule("latency_p99", 0.99, 200_000)))
    _AS_USUAL: ClassVar = {"latency_p50": (0.5, 0.4, 0.3, 0.1), "latency_p99": (0.01, 0.008, 0.006, 0.002)}

    def _stable(self) -> ArmTick:
        return replace(arm(1000, 1, quantiles=self._AS_USUAL), groups={}, users=0)

    def _judge(self) -> Judge:
        return a_judge(self._SETTINGS, stable=self._stable())

    def test_each_has_its_thresholds_and_the_p95_comes_first(self) -> None:
        judge = self._judge()
        assert list(judge.questions) == ["latency_p95", "latency_p50", "latency_p99", "stalls"]
        assert sum(map(len, judge.questions.values())) <= 15
        assert judge.slow_us == judge.questions["latency_p95"][2]
        assert [one.metric for one in run(judge, HEALTHY).metrics][:4] == [
            *("error_rate", "latency_p95", "latency_p50", "latency_p99"),
        ]

    def test_a_slower_half_is_found(self) -> None:
        slow = arm(100, quantiles=self._AS_USUAL | {"latency_p50": (0.9, 0.8, 0.75, 0.7)})
        verdict = until(self._judge(), slow, Action.ROLLBACK, stable=self._stable(), ticks=20)
        assert "p50 of answered requests: canary 100 ms, stable 100 ms" in verdict.sentence
        assert "canary requests took over 152 ms (70 %)" in verdict.sentence

    def test_a_slower_tail_is_found(self) -> None:
        slow = arm(100, 0, (0.09, 0.08, 0.08, 0.08), quantiles=self._AS_USUAL | {"latency_p99": (0.06, 0.06, 0.06, 0.05)})
        verdict = until(self._judge(), slow, Action.ROLLBACK, stable=self._stable(), ticks=60)
        assert of(verdict, "latency_p99").evidence > 0

    def test_they_are_not_required(self) -> None:
        verdict = until(self._judge(), arm(100, quantiles={}), Action.PROMOTE, stable=self._stable(), ticks=100)
        assert [one.metric for one in verdict.metrics if one.required] == ["error_rate", "latency_p95"]

    def test_without_any_the_stall_limit_says_what_is_slow(self) -> None:
        judge = a_judge(replace(COLD, latency=()))
        assert judge.slow_us == 1_000_000
        assert until(judge, HEALTHY, Action.PROMOTE, ticks=100)
        assert a_judge(replace(COLD, latency=(), stalls=None)).slow_us == 1_000_000


def test_a_metric_that_is_off_is_not_there() -> None:
    off = replace(COLD, stalls=None, throughput=None, client_errors=None, response_size=None, latency=())
    verdict = run(a_judge(off), replace(HEALTHY, cohorts={"stalls": (Cohort((1,), 5, (0,)),)}))
    assert [one.metric for one in verdict.metrics] == ["error_rate"]
    assert groups(3)[0].started == 1
