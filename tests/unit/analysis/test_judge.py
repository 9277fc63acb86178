"""What the judge says of errors and latency, of health, of dry runs and of a bake; the other metrics are elsewhere."""

from __future__ import annotations

import json
from dataclasses import replace
from math import log

import pytest
from judged_world import COLD, DEFAULT, HEALTHY, NONE, STABLE, Slow, a_judge, a_tick, arm, of, run, until

from canaryproxy.analysis.judge import Judge
from canaryproxy.analysis.latency import thresholds_us
from canaryproxy.analysis.sample import T_HANG, ArmTick, Cohort, Group
from canaryproxy.analysis.settings import FloorRule, GoalRule, LatencyRule, Rule
from canaryproxy.analysis.verdict import Action, MetricVerdict, Outcome, Verdict
from canaryproxy.stats.histogram import round_up_us


def _errors(verdict: Verdict) -> MetricVerdict:
    return of(verdict, "error_rate")


def _latency(verdict: Verdict) -> MetricVerdict:
    return of(verdict, "latency_p95")


class TestErrorRate:
    def test_half_failing_is_rolled_back_at_once_and_the_sentence_says_why(self) -> None:
        verdict = run(a_judge(), arm(10, 5))
        assert (verdict.outcome, verdict.action) == (Outcome.FAIL, Action.ROLLBACK)
        assert verdict.sentence == (
            "in the last 15 s canary 5/10 failed (50 %), stable 1/1000 (0.10 %), "
            "evidence over a million to 1 for harm (acts at 286), 5 users"
        )
        assert _errors(verdict).numbers == {
            "window": "in the last 15 s",
            "canary": {"requests": 10, "failed": 5},
            "stable": {"requests": 1000, "failed": 1},
            "concurrent": True,
            "users": 5,
        }

    def test_few_requests_prove_nothing_however_bad_they_look(self) -> None:
        assert run(a_judge(), arm(50, 1)).action is Action.CONTINUE
        assert run(a_judge(), arm(1, 1)).action is Action.CONTINUE

    def test_size_is_believed_from_8_requests(self) -> None:
        judge = a_judge()
        verdict = run(judge, arm(7, 7))
        assert (_errors(verdict).outcome, verdict.action) == (Outcome.FAIL, Action.ROLLBACK)  # by the margin, not by size
        assert "more than 1 pp of harm (acts at 2000)" in verdict.sentence

    def test_proven_but_small_harm_pauses(self) -> None:
        small = arm(1000, 6)
        verdict = until(a_judge(), small, Action.PAUSE)
        assert verdict.outcome is Outcome.FAIL
        assert "for harm, though of less than 1 pp (acts at 286)" in verdict.sentence

    def test_harm_that_both_share_is_none(self) -> None:
        verdict = run(a_judge(), arm(100, 30), ticks=60, stable=arm(1000, 300))
        assert verdict.action is Action.FREEZE
        assert _errors(verdict).outcome is not Outcome.FAIL

    def test_a_fault_after_a_long_healthy_history_is_found_quickly(self) -> None:
        judge = a_judge()
        run(judge, HEALTHY, ticks=500)
        assert Action.ROLLBACK in [run(judge, arm(100, 10)).action for _ in range(5)]

    def test_margins_scale(self) -> None:
        assert until(a_judge(), arm(100, 5), Action.ROLLBACK)
        tolerant = a_judge(replace(COLD, error_rate=Rule(0.10)))
        assert run(tolerant, arm(100, 5), ticks=120).action is not Action.ROLLBACK
        assert until(a_judge(replace(COLD, error_rate=Rule(0.10))), arm(100, 20), Action.ROLLBACK)


class TestLatency:
    def test_requests_that_never_answer_are_found_though_nothing_completes(self) -> None:
        hung = ArmTick(
            cohorts={"latency_p95": (Cohort((1, 2, 3, 4), 10, (0, 0, 0, 0)),)},
            began=10,
            groups={group: Group(1, 0, 0, 0) for group in range(10)},
            users=10,
        )
        judge = a_judge()
        verdict = until(judge, hung, Action.ROLLBACK)
        assert "canary requests took over" in verdict.sentence
        assert "(100 %)" in verdict.sentence
        assert "p95 of answered requests: canary unknown, stable 100 ms" in verdict.sentence

    def test_harm_and_size(self) -> None:
        verdict = until(a_judge(), arm(100, 0, (0.30, 0.15, 0.11, 0.08)), Action.ROLLBACK)
        assert "for harm (acts at 500)" in verdict.sentence

    def test_half_the_margin_pauses(self) -> None:
        verdict = until(a_judge(), arm(100, 0, (0.30, 0.15, 0.12, 0.04)), Action.PAUSE)
        assert "canary requests took over 127 ms (12 %)" in verdict.sentence
        assert "for more than 25 ms of harm (acts at 500)" in verdict.sentence

    def test_a_quarter_of_the_margin_alone_does_nothing(self) -> None:
        verdict = run(a_judge(), arm(100, 0, (0.30, 0.15, 0.05, 0.02)), ticks=60)
        assert _latency(verdict).evidence > _latency(verdict).threshold
        assert verdict.action is Action.PROMOTE

    def test_the_warm_up_is_not_judged_but_its_errors_are(self) -> None:
        slow = arm(100, 0, (0.9, 0.9, 0.9, 0.9))
        judge = a_judge(DEFAULT)
        verdict = run(judge, slow, ticks=20)
        assert verdict.action is Action.CONTINUE
        assert _latency(verdict).evidence == 0
        assert run(judge, slow).action is Action.ROLLBACK
        assert run(a_judge(DEFAULT), arm(10, 5)).action is Action.ROLLBACK

    def test_the_warm_up_lasts_for_50_requests(self) -> None:
        verdict = run(a_judge(DEFAULT), arm(1, 0), ticks=30)
        assert "warming up: judged after 0 more seconds and 20 more canary requests" in _latency(verdict).sentence

    def test_nothing_is_said_before_stable_is_known(self) -> None:
        judge = Judge(COLD)
        judge.begin_rollout()
        assert judge.questions["latency_p95"] == thresholds_us(None, 50_000)
        verdict = run(judge, arm(100, 0, (1.0, 1.0, 1.0, 1.0)), stable=arm(40, 0))
        assert _latency(verdict).outcome is Outcome.INCONCLUSIVE
        assert "stable has answered too few requests to compare with" in _latency(verdict).sentence

    def test_thresholds_are_edges_around_stables_p95(self) -> None:
        expected = (100_000, 112_500, 125_000, 150_000)
        q, *above = a_judge().questions["latency_p95"]
        assert q == round_up_us(expected[0])
        assert above == [round_up_us(q + extra) for extra in (12_500, 25_000, 50_000)]
        assert thresholds_us(200_000, 200_000) == tuple(
            round_up_us(round_up_us(200_000) + e) for e in (0, 50_000, 100_000, 200_000)
        )

    @pytest.mark.parametrize("margin_us", [50_000, 5_000_000, 60_000_000])
    def test_no_threshold_is_beyond_the_hang_limit(self, margin_us: int) -> None:
        for p95_us in (100, 200_000, 9_990_000, 100_000_000):
            thresholds = thresholds_us(p95_us, margin_us)
            assert list(thresholds) == sorted(thresholds)
            assert thresholds[-1] <= T_HANG * 1_000_000


class TestPromotion:
    def test_needs_every_metric(self) -> None:
        judge = a_judge()
        verdict = until(judge, HEALTHY, Action.PROMOTE)
        assert verdict.outcome is Outcome.PASS
        assert verdict.sentence.startswith("health proven in this step: canary 0/")
        required = [one for one in verdict.metrics if one.required]
        assert [one.metric for one in required] == ["error_rate", "latency_p95"]
        assert all(one.promote_evidence >= one.promote_threshold for one in required)

    def test_no_data_is_never_a_pass(self) -> None:
        for full_weight in (False, True):
            verdict = run(a_judge(), NONE, ticks=300, full_weight=full_weight)
            assert (verdict.outcome, verdict.action) == (Outcome.INCONCLUSIVE, Action.CONTINUE)
        verdict = run(Judge(COLD), NONE, stable=NONE)
        assert (verdict.outcome, verdict.action) == (Outcome.INCONCLUSIVE, Action.CONTINUE)

    def test_says_how_much_is_missing(self) -> None:
        verdict = run(a_judge(), HEALTHY)
        assert verdict.sentence.startswith("canary 0/100 failed (0 %), stable 1/1000 (0.10 %), evidence ")
        needed = int(verdict.sentence.split("needs about ")[1].split()[0])
        assert 200 < needed < 450

    def test_starts_over_at_each_step(self) -> None:
        judge = a_judge()
        until(judge, HEALTHY, Action.PROMOTE)
        judge.begin_step()
        verdict = run(judge, HEALTHY)
        assert (verdict.outcome, verdict.action) == (Outcome.INCONCLUSIVE, Action.CONTINUE)

    def test_needs_enough_requests_in_the_step(self) -> None:
        judge = a_judge(replace(COLD, min_requests=10_000))
        verdict = run(judge, HEALTHY, ticks=60)
        assert (verdict.outcome, verdict.action) == (Outcome.INCONCLUSIVE, Action.CONTINUE)
        assert verdict.sentence == "needs 4000 more canary requests in this step (at least 10000)"
        assert run(judge, HEALTHY, ticks=40).action is Action.PROMOTE

    def test_a_stable_that_is_never_slow_can_be_matched(self) -> None:
        always_equal: Slow = (0.0, 0.0, 0.0, 0.0)
        judge, stable = Judge(COLD), arm(1000, 1, always_equal)
        for _ in range(10):
            judge.observe(a_tick(stable, NONE))
        judge.begin_rollout()
        judge.begin_step()
        verdict = run(judge, arm(10, 0, always_equal), ticks=60, stable=stable)
        assert _latency(verdict).outcome is Outcome.PASS
        judge.begin_step()
        verdict = run(judge, arm(100, 0, (0.06, 0.06, 0.06, 0.06)), ticks=10, stable=stable)
        assert _latency(verdict).outcome is not Outcome.PASS

    def test_a_canary_at_the_margin_does_not_pass(self) -> None:
        verdict = run(a_judge(), arm(1000, 11), ticks=1)
        assert _errors(verdict).outcome is not Outcome.PASS

    def test_it_is_certain_at_a_much_stricter_level(self) -> None:
        judge = a_judge()
        first = until(judge, HEALTHY, Action.PROMOTE)
        assert not first.certain
        for _ in range(200):
            verdict = run(judge, HEALTHY)
            if verdict.certain:
                break
        required = [one for one in verdict.metrics if one.required]
        assert min(one.promote_evidence for one in required) >= log(1000)
        assert min(one.promote_evidence for one in required) < log(1000) + 1
        assert verdict.action is Action.PROMOTE
        judge.begin_step()
        assert not run(judge, HEALTHY).certain

    def test_a_breach_outranks_it(self) -> None:
        judge = a_judge()
        until(judge, HEALTHY, Action.PROMOTE)
        assert run(judge, arm(100, 50)).action is Action.ROLLBACK


class TestActions:
    def test_the_configured_action_is_asked_for(self) -> None:
        for action in (Action.PAUSE, Action.WARN):
            verdict = run(a_judge(replace(COLD, error_rate=Rule(0.01, action))), arm(10, 5))
            assert (verdict.outcome, verdict.action) == (Outcome.FAIL, action)
        verdict = until(
            a_judge(replace(COLD, latency=(LatencyRule(action=Action.WARN),))), arm(100, 0, (0.30, 0.15, 0.12, 0.04)), Action.WARN
        )
        assert verdict.outcome is Outcome.FAIL

    def test_rollback_outranks_pause_and_warn(self) -> None:
        slow = arm(100, 50, (1.0, 1.0, 1.0, 1.0))
        for latency_action in (Action.PAUSE, Action.WARN):
            verdict = run(a_judge(replace(COLD, latency=(LatencyRule(action=latency_action),))), slow)
            assert verdict.action is Action.ROLLBACK
            assert "failed" in verdict.sentence

    def test_a_dry_run_reports_but_only_warns(self) -> None:
        judge = a_judge(replace(COLD, error_rate=Rule(0.01, dry_run=True)))
        verdict = run(judge, arm(10, 5))
        assert verdict.action is Action.WARN
        assert verdict.outcome is not Outcome.FAIL
        assert _errors(verdict).sentence.startswith("dry run: in the last 15 s canary 5/10 failed")
        assert _errors(verdict).numbers["dry_run"] is True

    def test_a_dry_run_does_not_hinder_promotion(self) -> None:
        verdict = until(a_judge(replace(COLD, error_rate=Rule(0.01, dry_run=True))), arm(100, 50), Action.PROMOTE)
        assert _errors(verdict).outcome is Outcome.FAIL

    def test_with_dry_runs_only_nothing_is_promoted(self) -> None:
        judge = a_judge(replace(COLD, error_rate=Rule(0.01, dry_run=True), latency=(LatencyRule(dry_run=True),)))
        verdict = run(judge, HEALTHY, ticks=100)
        assert (verdict.outcome, verdict.action) == (Outcome.INCONCLUSIVE, Action.CONTINUE)
        assert verdict.sentence == "every metric that could prove health is a dry run or off: nothing can prove it"


class TestFullWeight:
    def test_a_bake_stays_armed_for_errors(self) -> None:
        judge = a_judge()
        run(judge, HEALTHY, ticks=30)
        judge.begin_step()
        verdict = until(judge, arm(100, 5), Action.ROLLBACK, stable=NONE, full_weight=True)
        assert "before (it has no traffic now), evidence" in verdict.sentence
        assert "more than 1 pp of harm" in verdict.sentence
        assert _errors(verdict).numbers["concurrent"] is False

    def test_a_bake_stays_armed_for_latency(self) -> None:
        judge = a_judge()
        run(judge, HEALTHY, ticks=30)
        judge.begin_step()
        verdict = until(judge, arm(100, 0, (0.3, 0.3, 0.3, 0.3)), Action.ROLLBACK, stable=NONE, full_weight=True)
        assert "of stable's over 100 ms before (it has no traffic now)" in verdict.sentence

    def test_a_healthy_bake_goes_on_and_proves_health(self) -> None:
        judge = a_judge()
        run(judge, HEALTHY, ticks=30)
        judge.begin_step()
        verdict = run(judge, HEALTHY, ticks=300, stable=NONE, full_weight=True)
        assert verdict.action is Action.PROMOTE

    def test_a_drift_within_the_margin_is_not_held_against_it(self) -> None:
        judge = a_judge()
        run(judge, HEALTHY, ticks=30)
        verdict = run(judge, arm(1000, 9), ticks=300, stable=NONE, full_weight=True)
        assert _errors(verdict).outcome is not Outcome.FAIL

    def test_the_baseline_is_frozen(self) -> None:
        judge = a_judge()
        before = judge.state()["baseline"]
        run(judge, HEALTHY, ticks=10, stable=arm(5, 5), full_weight=True)
        assert judge.state()["baseline"] == before

    def test_without_a_baseline_nothing_is_claimed(self) -> None:
        judge = Judge(COLD)
        judge.begin_rollout()
        verdict = run(judge, arm(100, 50), ticks=30, stable=NONE, full_weight=True)
        assert (verdict.outcome, verdict.action) == (Outcome.INCONCLUSIVE, Action.CONTINUE)
        assert "too few to compare with" in verdict.sentence


class TestState:
    def test_a_new_rollout_forgets_evidence_and_keeps_stable(self) -> None:
        judge = a_judge()
        run(judge, arm(10, 5))
        judge.begin_rollout()
        assert run(judge, HEALTHY).action is Action.CONTINUE
        assert judge.questions["latency_p95"] == a_judge().questions["latency_p95"]

    def test_evidence_on_other_margins_is_dropped(self) -> None:
        judge = a_judge()
        run(judge, arm(10, 5))
        state = json.loads(json.dumps(judge.state(), allow_nan=False))
        assert _errors(run(Judge(COLD, state), NONE)).outcome is Outcome.FAIL
        other = Judge(replace(COLD, error_rate=Rule(0.02)), state)
        assert _errors(run(other, NONE)).outcome is Outcome.INCONCLUSIVE
        assert other.questions["latency_p95"] == judge.questions["latency_p95"]

    def test_a_state_of_another_format_is_ignored(self) -> None:
        judge = a_judge()
        run(judge, arm(10, 5))
        old = {"format": 1, "baseline": judge.state()["baseline"], "margins": [0.01], "error_rate": {"harm": []}}
        assert Judge(COLD, old).state() == Judge(COLD).state()

    def test_changed_margins_drop_only_that_metric_s_evidence(self) -> None:
        before = replace(
            COLD,
            success_floor=FloorRule(0.99),
            goals=(GoalRule("order"), GoalRule("signup")),
        )
        bad = replace(arm(100, 3, (0.2, 0.1, 0.08, 0.06), stalled=3), refused=5, goals=(1, 1), sizes={0: 5, 12: 95})
        stable = replace(STABLE, goals=(100, 100), sizes={12: 1000})
        judge = a_judge(before, stable=stable)
        for _ in range(7):
            judge.judge(a_tick(stable, bad, 0.1, 0.15), full_weight=False)
        state = json.loads(json.dumps(judge.state()))
        changes: dict[str, dict[str, object]] = {
            "error_rate": {"error_rate": Rule(0.02)},
            "latency_p95": {"latency": (LatencyRule(margin_us=60_000),)},
            "stalls": {"stalls": Rule(0.02)},
            "throughput": {"throughput": Rule(0.3)},
            "client_errors": {"client_errors": Rule(0.03, Action.PAUSE)},
            "response_size": {"response_size": Rule(0.03, Action.PAUSE)},
            "success_floor": {"success_floor": FloorRule(0.98)},
            "signup": {"goals": (GoalRule("order"), GoalRule("signup", 0.1))},
        }
        quiet = a_tick(NONE, NONE)
        kept = {one.metric: one for one in Judge(before, state).judge(quiet, full_weight=False).metrics}
        for name, change in changes.items():
            verdict = Judge(replace(before, **change), state).judge(quiet, full_weight=False)  # type: ignore[arg-type]
            for metric in verdict.metrics:
                assert kept[metric.metric].evidence > 0.1, metric.metric
                if metric.metric == name:
                    assert metric.evidence == pytest.approx(0, abs=1e-12), name
                    counted = metric.numbers["canary"]
                    assert (counted if isinstance(counted, (int, float)) else counted["requests"]) == 0, name
                else:
                    assert metric.evidence == kept[metric.metric].evidence, (name, metric.metric)

    def test_a_trend_against_another_margin_is_none(self) -> None:
        settings = replace(COLD, goals=(GoalRule("order"),))
        judge = a_judge(settings)
        run(judge, replace(HEALTHY, goals=(1,)), ticks=170, stable=replace(STABLE, goals=(100,)))
        state = judge.state()
        assert state["metrics"]["order"]["trend"][1] == 2
        other = Judge(replace(settings, goals=(GoalRule("order", 0.5),)), state)
        assert other.state()["metrics"]["order"]["trend"] == [0.0, 0]

    def test_it_is_small(self) -> None:
        judge = a_judge()
        run(judge, HEALTHY, ticks=120)
        assert len(json.dumps(judge.state())) < 30_000

    def test_observing_is_not_judging(self) -> None:
        judge = a_judge()
        before = judge.state()["metrics"]
        judge.observe(a_tick(STABLE, arm(100, 100)))
        after = judge.state()["metrics"]
        for name in ("error_rate", "latency_p95", "stalls", "client_errors", "response_size"):
            assert after[name]["evidence"] == before[name]["evidence"]
        assert after["throughput"] == before["throughput"]
