from __future__ import annotations

import json
from dataclasses import replace

import pytest

from canaryproxy.analysis.judge import Judge, JudgeSettings
from canaryproxy.analysis.latency import thresholds_us
from canaryproxy.analysis.sample import T_HANG, ArmTick, Cohort, Tick
from canaryproxy.analysis.verdict import Action, MetricVerdict, Outcome, Verdict
from canaryproxy.stats.histogram import index, round_up_us

_DEFAULT = JudgeSettings()
_COLD = JudgeSettings(warmup=0, warmup_requests=0)

Slow = tuple[float, float, float, float]
_USUAL: Slow = (0.05, 0.04, 0.03, 0.02)


def _arm(requests: int, failed: int, slow: Slow = _USUAL) -> ArmTick:
    """`slow`: shares over q and over q + 1/4, 1/2 and 1 margin."""
    within = tuple(requests - round(requests * share) for share in slow)
    quick = requests - requests // 20
    cohorts = (Cohort((1, 2, 3, 4), requests, within),) if requests else ()
    return ArmTick(requests, failed, cohorts, {index(100_000): quick, index(200_000): requests - quick} if requests else {})


def _tick(stable: ArmTick, canary: ArmTick) -> Tick:
    return Tick(1.0, stable, canary)


_NONE = ArmTick()
_STABLE = _arm(1000, 1)
_HEALTHY = _arm(100, 0)


def _judge(settings: JudgeSettings = _COLD, seen: int = 10) -> Judge:
    judge = Judge(settings)
    for _ in range(seen):
        judge.observe(_tick(_STABLE, _NONE))
    judge.begin_rollout()
    judge.begin_step()
    return judge


def _run(judge: Judge, canary: ArmTick, ticks: int = 1, stable: ArmTick = _STABLE, full_weight: bool = False) -> Verdict:
    for _ in range(ticks):
        verdict = judge.judge(_tick(stable, canary), full_weight=full_weight)
    return verdict


def _until(judge: Judge, canary: ArmTick, action: Action, stable: ArmTick = _STABLE, full_weight: bool = False) -> Verdict:
    for _ in range(600):
        verdict = _run(judge, canary, stable=stable, full_weight=full_weight)
        if verdict.action is action:
            return verdict
    raise AssertionError(f"never {action}: {verdict.sentence}")


def _errors(verdict: Verdict) -> MetricVerdict:
    return verdict.metrics[0]


def _latency(verdict: Verdict) -> MetricVerdict:
    return verdict.metrics[1]


class TestErrorRate:
    def test_half_failing_is_rolled_back_at_once_and_the_sentence_says_why(self) -> None:
        verdict = _run(_judge(), _arm(10, 5))
        assert (verdict.outcome, verdict.action) == (Outcome.FAIL, Action.ROLLBACK)
        assert verdict.sentence == (
            "in the last 15 s canary 5/10 failed (50 %), stable 1/1000 (0.10 %), "
            "evidence over a million to 1 for harm (acts at 286)"
        )
        assert _errors(verdict).numbers == {
            "window": "in the last 15 s",
            "canary": {"requests": 10, "failed": 5},
            "stable": {"requests": 1000, "failed": 1},
            "concurrent": True,
        }

    def test_few_requests_prove_nothing_however_bad_they_look(self) -> None:
        assert _run(_judge(), _arm(50, 1)).action is Action.CONTINUE
        assert _run(_judge(), _arm(1, 1)).action is Action.CONTINUE

    def test_size_is_believed_from_8_requests(self) -> None:
        judge = _judge()
        verdict = _run(judge, _arm(7, 7))
        assert (_errors(verdict).outcome, verdict.action) == (Outcome.FAIL, Action.ROLLBACK)  # by the margin, not by size
        assert "more than 1 pp of harm (acts at 2000)" in verdict.sentence

    def test_proven_but_small_harm_pauses(self) -> None:
        small = _arm(1000, 6)
        verdict = _until(_judge(), small, Action.PAUSE)
        assert verdict.outcome is Outcome.FAIL
        assert "for harm (acts at 286), but of less than 1 pp" in verdict.sentence

    def test_harm_that_both_share_is_none(self) -> None:
        verdict = _run(_judge(), _arm(100, 30), ticks=60, stable=_arm(1000, 300))
        assert verdict.action is Action.CONTINUE

    def test_a_fault_after_a_long_healthy_history_is_found_quickly(self) -> None:
        judge = _judge()
        _run(judge, _HEALTHY, ticks=500)
        assert Action.ROLLBACK in [_run(judge, _arm(100, 10)).action for _ in range(5)]

    def test_margins_scale(self) -> None:
        assert _until(_judge(), _arm(100, 5), Action.ROLLBACK)
        tolerant = _judge(replace(_COLD, error_margin=0.10))
        assert _run(tolerant, _arm(100, 5), ticks=120).action is not Action.ROLLBACK
        assert _until(_judge(replace(_COLD, error_margin=0.10)), _arm(100, 20), Action.ROLLBACK)


class TestLatency:
    def test_requests_that_never_answer_are_found_though_nothing_completes(self) -> None:
        hung = ArmTick(cohorts=(Cohort((1, 2, 3, 4), 10, (0, 0, 0, 0)),))
        judge = _judge()
        verdict = _until(judge, hung, Action.ROLLBACK)
        assert "canary requests took over" in verdict.sentence
        assert "(100 %)" in verdict.sentence
        assert "p95 of answered requests: canary unknown, stable 100 ms" in verdict.sentence

    def test_harm_and_size(self) -> None:
        verdict = _until(_judge(), _arm(100, 0, (0.30, 0.15, 0.11, 0.08)), Action.ROLLBACK)
        assert "for harm (acts at 500)" in verdict.sentence

    def test_half_the_margin_pauses(self) -> None:
        verdict = _until(_judge(), _arm(100, 0, (0.30, 0.15, 0.12, 0.04)), Action.PAUSE)
        assert "canary requests took over 127 ms (12 %)" in verdict.sentence
        assert "for more than 25 ms of harm (acts at 500)" in verdict.sentence

    def test_a_quarter_of_the_margin_alone_does_nothing(self) -> None:
        verdict = _run(_judge(), _arm(100, 0, (0.30, 0.15, 0.05, 0.02)), ticks=60)
        assert _latency(verdict).evidence > _latency(verdict).threshold
        assert verdict.action is Action.PROMOTE

    def test_the_warm_up_is_not_judged_but_its_errors_are(self) -> None:
        slow = _arm(100, 0, (0.9, 0.9, 0.9, 0.9))
        judge = _judge(_DEFAULT)
        verdict = _run(judge, slow, ticks=20)
        assert verdict.action is Action.CONTINUE
        assert _latency(verdict).evidence == 0
        assert _run(judge, slow).action is Action.ROLLBACK
        assert _run(_judge(_DEFAULT), _arm(10, 5)).action is Action.ROLLBACK

    def test_the_warm_up_lasts_for_50_requests(self) -> None:
        verdict = _run(_judge(_DEFAULT), _arm(1, 0), ticks=30)
        assert "warming up: judged after 0 more seconds and 20 more canary requests" in _latency(verdict).sentence

    def test_nothing_is_said_before_stable_is_known(self) -> None:
        judge = Judge(_COLD)
        judge.begin_rollout()
        assert judge.thresholds_us == thresholds_us(None, 50_000)
        verdict = _run(judge, _arm(100, 0, (1.0, 1.0, 1.0, 1.0)), stable=_arm(40, 0))
        assert _latency(verdict).outcome is Outcome.INCONCLUSIVE
        assert "stable has answered too few requests to compare with" in _latency(verdict).sentence

    def test_thresholds_are_edges_around_stables_p95(self) -> None:
        expected = (100_000, 112_500, 125_000, 150_000)
        q, *above = _judge().thresholds_us
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
        judge = _judge()
        verdict = _until(judge, _HEALTHY, Action.PROMOTE)
        assert verdict.outcome is Outcome.PASS
        assert verdict.sentence.startswith("health proven in this step: canary 0/")
        assert all(one.promote_evidence >= one.promote_threshold for one in verdict.metrics)

    def test_no_data_is_never_a_pass(self) -> None:
        for full_weight in (False, True):
            verdict = _run(_judge(), _NONE, ticks=300, full_weight=full_weight)
            assert (verdict.outcome, verdict.action) == (Outcome.INCONCLUSIVE, Action.CONTINUE)
        verdict = _run(Judge(_COLD), _NONE, stable=_NONE)
        assert (verdict.outcome, verdict.action) == (Outcome.INCONCLUSIVE, Action.CONTINUE)

    def test_says_how_much_is_missing(self) -> None:
        verdict = _run(_judge(), _HEALTHY)
        assert verdict.sentence.startswith("canary 0/100 failed (0 %), stable 1/1000 (0.10 %), evidence ")
        needed = int(verdict.sentence.split("needs about ")[1].split()[0])
        assert 200 < needed < 450

    def test_starts_over_at_each_step(self) -> None:
        judge = _judge()
        _until(judge, _HEALTHY, Action.PROMOTE)
        judge.begin_step()
        verdict = _run(judge, _HEALTHY)
        assert (verdict.outcome, verdict.action) == (Outcome.INCONCLUSIVE, Action.CONTINUE)

    def test_needs_enough_requests_in_the_step(self) -> None:
        judge = _judge(replace(_COLD, min_requests=10_000))
        verdict = _run(judge, _HEALTHY, ticks=60)
        assert (verdict.outcome, verdict.action) == (Outcome.INCONCLUSIVE, Action.CONTINUE)
        assert verdict.sentence == "needs 4000 more canary requests in this step (at least 10000)"
        assert _run(judge, _HEALTHY, ticks=40).action is Action.PROMOTE

    def test_a_stable_that_is_never_slow_can_be_matched(self) -> None:
        always_equal: Slow = (0.0, 0.0, 0.0, 0.0)
        judge, stable = Judge(_COLD), _arm(1000, 1, always_equal)
        for _ in range(10):
            judge.observe(_tick(stable, _NONE))
        judge.begin_rollout()
        judge.begin_step()
        verdict = _run(judge, _arm(10, 0, always_equal), ticks=60, stable=stable)
        assert _latency(verdict).outcome is Outcome.PASS
        judge.begin_step()
        verdict = _run(judge, _arm(100, 0, (0.06, 0.06, 0.06, 0.06)), ticks=10, stable=stable)
        assert _latency(verdict).outcome is not Outcome.PASS

    def test_a_canary_at_the_margin_does_not_pass(self) -> None:
        verdict = _run(_judge(), _arm(1000, 11), ticks=1)
        assert _errors(verdict).outcome is not Outcome.PASS

    def test_a_breach_outranks_it(self) -> None:
        judge = _judge()
        _until(judge, _HEALTHY, Action.PROMOTE)
        assert _run(judge, _arm(100, 50)).action is Action.ROLLBACK


class TestActions:
    def test_the_configured_action_is_asked_for(self) -> None:
        for action in (Action.PAUSE, Action.WARN):
            verdict = _run(_judge(replace(_COLD, error_action=action)), _arm(10, 5))
            assert (verdict.outcome, verdict.action) == (Outcome.FAIL, action)
        verdict = _until(_judge(replace(_COLD, latency_action=Action.WARN)), _arm(100, 0, (0.30, 0.15, 0.12, 0.04)), Action.WARN)
        assert verdict.outcome is Outcome.FAIL

    def test_rollback_outranks_pause_and_warn(self) -> None:
        slow = _arm(100, 50, (1.0, 1.0, 1.0, 1.0))
        for latency_action in (Action.PAUSE, Action.WARN):
            verdict = _run(_judge(replace(_COLD, latency_action=latency_action)), slow)
            assert verdict.action is Action.ROLLBACK
            assert "failed" in verdict.sentence

    def test_a_dry_run_reports_but_only_warns(self) -> None:
        judge = _judge(replace(_COLD, error_dry_run=True))
        verdict = _run(judge, _arm(10, 5))
        assert verdict.action is Action.WARN
        assert verdict.outcome is not Outcome.FAIL
        assert _errors(verdict).sentence.startswith("dry run: in the last 15 s canary 5/10 failed")
        assert _errors(verdict).numbers["dry_run"] is True

    def test_a_dry_run_does_not_hinder_promotion(self) -> None:
        verdict = _until(_judge(replace(_COLD, error_dry_run=True)), _arm(100, 50), Action.PROMOTE)
        assert _errors(verdict).outcome is Outcome.FAIL

    def test_with_dry_runs_only_nothing_is_promoted(self) -> None:
        judge = _judge(replace(_COLD, error_dry_run=True, latency_dry_run=True))
        verdict = _run(judge, _HEALTHY, ticks=100)
        assert (verdict.outcome, verdict.action) == (Outcome.INCONCLUSIVE, Action.CONTINUE)
        assert verdict.sentence == "every metric is a dry run: nothing can prove health"


class TestFullWeight:
    def test_a_bake_stays_armed_for_errors(self) -> None:
        judge = _judge()
        _run(judge, _HEALTHY, ticks=30)
        judge.begin_step()
        verdict = _until(judge, _arm(100, 5), Action.ROLLBACK, stable=_NONE, full_weight=True)
        assert "before (it has no traffic now), evidence" in verdict.sentence
        assert "more than 1 pp of harm" in verdict.sentence
        assert _errors(verdict).numbers["concurrent"] is False

    def test_a_bake_stays_armed_for_latency(self) -> None:
        judge = _judge()
        _run(judge, _HEALTHY, ticks=30)
        judge.begin_step()
        verdict = _until(judge, _arm(100, 0, (0.3, 0.3, 0.3, 0.3)), Action.ROLLBACK, stable=_NONE, full_weight=True)
        assert "of stable's over 100 ms before (it has no traffic now)" in verdict.sentence

    def test_a_healthy_bake_goes_on_and_proves_health(self) -> None:
        judge = _judge()
        _run(judge, _HEALTHY, ticks=30)
        judge.begin_step()
        verdict = _run(judge, _HEALTHY, ticks=300, stable=_NONE, full_weight=True)
        assert verdict.action is Action.PROMOTE

    def test_a_drift_within_the_margin_is_not_held_against_it(self) -> None:
        judge = _judge()
        _run(judge, _HEALTHY, ticks=30)
        verdict = _run(judge, _arm(1000, 9), ticks=300, stable=_NONE, full_weight=True)
        assert _errors(verdict).outcome is not Outcome.FAIL

    def test_the_baseline_is_frozen(self) -> None:
        judge = _judge()
        before = judge.state()["baseline"]
        _run(judge, _HEALTHY, ticks=10, stable=_arm(5, 5), full_weight=True)
        assert judge.state()["baseline"] == before

    def test_without_a_baseline_nothing_is_claimed(self) -> None:
        judge = Judge(_COLD)
        judge.begin_rollout()
        verdict = _run(judge, _arm(100, 50), ticks=30, stable=_NONE, full_weight=True)
        assert (verdict.outcome, verdict.action) == (Outcome.INCONCLUSIVE, Action.CONTINUE)
        assert "too few to compare with" in verdict.sentence


class TestState:
    def test_a_new_rollout_forgets_evidence_and_keeps_stable(self) -> None:
        judge = _judge()
        _run(judge, _arm(10, 5))
        judge.begin_rollout()
        assert _run(judge, _HEALTHY).action is Action.CONTINUE
        assert judge.thresholds_us == _judge().thresholds_us

    def test_evidence_on_other_margins_is_dropped(self) -> None:
        judge = _judge()
        _run(judge, _arm(10, 5))
        state = json.loads(json.dumps(judge.state(), allow_nan=False))
        assert _errors(_run(Judge(_COLD, state), _NONE)).outcome is Outcome.FAIL
        other = Judge(replace(_COLD, error_margin=0.02), state)
        assert _errors(_run(other, _NONE)).outcome is Outcome.INCONCLUSIVE
        assert other.thresholds_us == judge.thresholds_us

    def test_it_is_small(self) -> None:
        judge = _judge()
        _run(judge, _HEALTHY, ticks=120)
        assert len(json.dumps(judge.state())) < 4000

    def test_observing_is_not_judging(self) -> None:
        judge = _judge()
        evidence = judge.state()["error_rate"]
        judge.observe(_tick(_STABLE, _arm(100, 100)))
        assert judge.state()["error_rate"] == evidence
