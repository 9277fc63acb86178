"""One route under control: its rollout, judge, sampler and saver, and the effects of every decision in their order.

Owned by `control.controller`. Everything here is synchronous, so a command and a tick can never mix: an event is decided, and
what it lowers is on the board, before anything is awaited.

The board's rule: what a decision takes down is shown at once; whatever it raises is shown when exactly that decision is on
disk (`_written`), so a raise whose save failed is made true by the save that succeeds, and one that was overtaken never.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

from canaryproxy.analysis.describe import describe_verdict
from canaryproxy.analysis.judge import Judge
from canaryproxy.analysis.sample import Tick as Sample
from canaryproxy.analysis.verdict import Action, Outcome, Verdict
from canaryproxy.clock import Clock
from canaryproxy.config import schema
from canaryproxy.config.overlay import Role
from canaryproxy.control.deployment import Deployment, tame
from canaryproxy.control.forgotten import mark_of
from canaryproxy.control.goals import PostedGoals
from canaryproxy.control.journal import Journal
from canaryproxy.control.messages import Versions
from canaryproxy.control.outbox import Outbox
from canaryproxy.control.outside import Outside
from canaryproxy.control.recovery import recover_route, show
from canaryproxy.control.sampler import Sampler
from canaryproxy.control.saver import Saver
from canaryproxy.control.settings import judge_settings
from canaryproxy.control.share import Share
from canaryproxy.control.takeback import Takeback
from canaryproxy.rollout.document import plan_document
from canaryproxy.rollout.machine import advance
from canaryproxy.rollout.model import EVERYBODY, Event, Phase, Record, ResetEvidence, Rollback, Rollout, Save, SetSplit, Tick
from canaryproxy.shared.board import Board
from canaryproxy.shared.layout import Segment
from canaryproxy.shared.userlist import UserList
from canaryproxy.store.base import Decision, Saved, Store
from canaryproxy.store.marks import End, Mark, Marks

#: Seconds between two saves of the evidence, with a rollout in progress and without: 5 and 60, less half a tick for jitter.
_CHECKPOINT, _CHECKPOINT_AT_REST = 4.5, 59.5
#: Seconds between two ticks after which it was not the tick that was late: the machine stood still, and every request with it.
_STANDSTILL = 3.0
#: Seconds without a judged request of the canary after which people are told.
_SILENCE = 30.0
#: Kinds of decisions that begin a rollout, and those that somebody should look at.
_BEGINNINGS = {"start", "retry", "restart"}
_ALARMING = {"rollback", "pause", "warning", "freeze", "step_back"}

_log = logging.getLogger("canaryproxy.control")


class RouteControl:
    """A route and everything that decides about it."""

    def __init__(
        self,
        name: str,
        config: schema.Route,
        slot: int,
        *,
        segment: Segment,
        store: Store,
        saved: Saved | None,
        thread: Executor,
        clock: Clock,
        outside: Outside,
        versions: Versions = str,
        takebacks: Sequence[Takeback] = (),
        marks: Marks | None = None,
    ) -> None:
        self.name, self.slot, self.config, self.outside = name, slot, config, outside
        self._board, self._clock, self._marks = Board(segment), clock, marks
        mark = marks.read(name) if marks else None
        recovered = recover_route(name, config, slot, self._board, saved, clock=clock, takebacks=takebacks, mark=mark)
        self.rollout = recovered.rollout
        settings = judge_settings(self.config)
        self.judge = Judge(settings, _evidence(saved, self.rollout))
        self.judge.counted_anew()
        self.journal = Journal(settings, lambda: self.judge)
        #: Drawn before it is needed: what users send at rest is counted under it, to know the share of requests to expect.
        #: Where none was saved, the one that was used last: it is not used again.
        self._next_salt: int = _kept(saved, "next_salt", self.rollout.salt)
        if self.rollout.in_progress:
            self.journal.resume(self.rollout, saved.journal if saved else None)
        #: Salt, and the users exposed and hurt under it.
        self._users: tuple[int, int, int] = tuple(_kept(saved, "users", (-1, 0, 0)))
        self._segment = segment
        self.deployment = Deployment(_kept(saved, "deploys", ()))
        users_file = config.overrides.users_file
        #: Beta users: as in the workers, they are nobody's to the judge.
        self.beta_users = UserList(users_file, wait=False) if users_file else None
        self.goals = PostedGoals(config.metrics.goals, self._board, slot, self.beta_users)
        self.sampler = self._make_sampler(Share(segment, slot, _kept(saved, "share", None)))
        self.sampler.publish(clock.monotonic(), self.judge.questions, self.judge.slow_us)
        #: The last tick, for people.
        self.sample: Sample | None = None
        self._board.publish_next_salt(slot, self._next_salt)
        self._draw_salt()
        self._late, self.standstills = False, 0
        self._silence, self._found = 0.0, ""
        self.outbox = Outbox(name, config.hooks, saved.outbox if saved else (), versions)
        self.saver = Saver(name, store, thread, self._snapshot, self._written, journal=self.journal, outbox=self.outbox)
        #: The last finding, kept after the rollout's end for people to read.
        self.verdict: Verdict | None = None
        self._noted = (Outcome.INCONCLUSIVE, Action.CONTINUE)
        self._checkpoint = -math.inf
        if recovered.sentence:
            _log.warning("%s", recovered.sentence)
        if recovered.records:
            mark = mark_of(self.rollout)  # rolled back, declined, or promoted again
            self._mark(mark if mark.end is End.PROMOTED else mark._replace(end=End.ROLLED_BACK))
        for record in recovered.records:
            self._record(record, "")

    def handle(self, event: Event, note: str = "") -> int:
        """Decide, and perform what can be performed at once; the ticket of the save (0 if there was nothing to save).

        Raises IllegalTransitionError, and then nothing was changed.
        """
        self.deployment.refuse(self.name, event)
        self.rollout, effects = advance(self.rollout, event, self._clock.wall())
        ticket = 0
        for effect in effects:
            match effect:
                case SetSplit(split) if not ticket:
                    show(self._board, self.slot, self.config, split)
                case SetSplit():
                    pass  # shown by _written
                case ResetEvidence(scope):
                    self._reset_evidence(scope)
                case Record():
                    self._record(effect, note)
                case Save():
                    ticket = self.saver.request()
        if self.deployment.settle(event) and not ticket:
            ticket = self.saver.request()
        if self.rollout.phase is Phase.ROLLED_BACK or isinstance(event, Rollback):
            # Not even a full disk and a kill of all lose it. After the board: a disk may stand still.
            self._mark(mark_of(self.rollout)._replace(end=End.ROLLED_BACK))
            if self._marks is not None:
                self._marks.settle()
        return ticket

    def tick(self, now: float) -> None:
        """Sample, judge and decide, at monotonic time `now`."""
        if self.beta_users is not None:
            self.beta_users.look(now)
        sample = self._with_all_users(self.goals.merge(self.sampler.sample(now)))
        self.sample = sample = self.outside.merge(sample, self.rollout)
        checkpoint = now - self._checkpoint >= (_CHECKPOINT if self.rollout.in_progress else _CHECKPOINT_AT_REST)
        if self._is_standstill(sample.elapsed):
            self._sample_anew()
            self.judge.counted_anew()
            if self.rollout.in_progress:
                self.journal.reopen()
        elif self.rollout.in_progress:
            self.verdict = self._judge(sample)
            if checkpoint:
                self._note_change(self.verdict)
            tick = self.deployment.tame(Tick(self.verdict, sample.elapsed))
            self.handle(tame(tick) if self.awaits_the_disk else tick)
        else:
            self.judge.observe(sample)
        self._draw_salt()
        self.sampler.publish(now, self.judge.questions, self.judge.slow_us)
        if checkpoint:
            self._checkpoint = now
            self.saver.request()
        self.saver.retry()

    @property
    def epoch(self) -> int:
        """The number of the split on the board."""
        return self._board.read(self.slot).epoch

    @property
    def awaits_the_disk(self) -> bool:
        """Whether the weight of the record is not given yet, for it is not saved: that is no time of its step."""
        return self._board.read(self.slot).weight_bp < self.rollout.weight_bp

    @property
    def users(self) -> tuple[int, int]:
        """Users exposed and hurt in this rollout, or after its end in the last."""
        salt, *known = self._users  # of the last tick, and from before a restart
        exposed, hurt = self.sampler.users(self.rollout.salt)
        return (max(exposed, known[0]), max(hurt, known[1])) if salt == self.rollout.salt else (exposed, hurt)

    def wants_auto_start(self) -> bool:
        """Whether the rollout is to start by itself as soon as the canary is there."""
        rollout = self.rollout
        fresh = rollout.phase is Phase.IDLE and rollout.canary is not None and rollout.canary not in rollout.settled
        return self.config.rollout.auto_start and fresh and self.deployment.role is None  # a deploy asks for its start itself

    def give_up_deploy(self, role: Role, why: str) -> None:
        """The pending start is called off for good."""
        self.deployment.give_up(role, why)
        self._record(Record("deploy", f"not started: {why}", {"deploy": role.id, "state": "refused"}), "")
        self.saver.request()

    def _with_all_users(self, sample: Sample) -> Sample:
        """The tick with no fewer users than were counted before a restart, which forgets who they were."""
        salt, canary = self._board.read(self.slot).salt, sample.canary
        known = self._users[1:] if self._users[0] == salt else (0, 0)
        self._users = salt, max(canary.users, known[0]), max(canary.hurt, known[1])
        _, users, hurt = self._users
        return (
            sample
            if (users, hurt) == (canary.users, canary.hurt)
            else replace(sample, canary=replace(canary, users=users, hurt=hurt))
        )

    def take_salt(self) -> int:
        """The salt of the rollout that starts now (32 bits)."""
        if self._next_salt == self.rollout.salt:
            self._next_salt = _new_salt(self.rollout.salt)
        return self._next_salt

    def _draw_salt(self) -> None:
        """Have what users send while nobody is split counted under the salt of the next rollout, or of the one that is at 0 %."""
        salt = self.rollout.salt if self.rollout.in_progress else self.take_salt()
        self._board.publish_next_salt(self.slot, salt)

    def _snapshot(self) -> tuple[Rollout, dict[str, Any]]:
        beside: dict[str, Any] = {"next_salt": self._next_salt, "share": self.sampler.weights, "users": list(self._users)}
        beside["deploys"] = self.deployment.settled
        return self.rollout, self.judge.state() | beside

    def _sample_anew(self) -> None:
        """Count from now on: a request that hangs already never counts as hanging."""
        self.sampler = self._make_sampler(self.sampler.share)

    def _make_sampler(self, share: Share) -> Sampler:
        return Sampler(self._segment, self.slot, self._clock.monotonic(), share, goals=len(self.goals.names))

    def _is_standstill(self, elapsed: float) -> bool:
        """Whether a tick says nothing about the canary: nothing ran before it, or deadlines that passed meanwhile end in it.

        Late a second time in a row is not a pause but load, which a canary may have caused: that is judged.
        """
        before, self._late = self._late, elapsed > _STANDSTILL
        if self._late and not before:
            self.standstills += 1
            _log.warning("route %s: the machine stood still for %.0f s; these seconds are not judged", self.name, elapsed)
        return before is not self._late

    def _judge(self, sample: Sample) -> Verdict:
        full_weight = self.rollout.weight_bp == EVERYBODY
        verdict = self.judge.judge(sample, full_weight=full_weight)
        self.journal.judged(sample, full_weight, verdict)
        self._found = verdict.sentence
        if verdict.quarantine != self._board.quarantined(self.slot):
            self._board.quarantine(self.slot, verdict.quarantine)
            _log.warning("route %s: users in groups %s are not judged any more", self.name, verdict.quarantine)
        self._silence = 0.0 if sample.canary.resolved or not self.rollout.weight_bp else self._silence + sample.elapsed
        if verdict.action is not Action.CONTINUE:
            return verdict
        if not self.rollout.begun:
            return replace(verdict, sentence="nobody is on the canary before the first step")
        if self._silence < _SILENCE:
            return verdict
        return replace(verdict, sentence=f"no request of an identified user reached the canary in the last {_SILENCE:.0f} s")

    def _reset_evidence(self, scope: str) -> None:
        if scope == "step":
            self.judge.begin_step()
            self.journal.step()
            return
        self.judge.begin_rollout()
        self.journal.begin(self.rollout)
        self._sample_anew()
        self._silence = 0.0
        self.verdict, self._noted = None, (Outcome.INCONCLUSIVE, Action.CONTINUE)

    def _note_change(self, verdict: Verdict) -> None:
        """Put a verdict of another kind than the last one on record; only at checkpoints, for it may waver."""
        kind = (verdict.outcome, verdict.action)
        if kind != self._noted:
            self._noted = kind
            at = {"step": self.rollout.step + 1, "weight_bp": self.rollout.weight_bp, "verdict": describe_verdict(verdict)}
            self._record(Record("verdict", f"{verdict.outcome.name.lower()}: {verdict.sentence}", at), "")

    def _record(self, record: Record, note: str) -> None:
        data = record.data | ({"note": note} if note else {})
        if record.kind in _BEGINNINGS:
            data |= {"plan": plan_document(self.rollout.plan)}
        if "verdict" in data:
            # What the judge itself said, for that is what a replay gives; the record's own sentence may say more.
            data |= {"verdict": data["verdict"] | {"sentence": self._found}, "journal": self.journal.position}
        now = self._clock.wall()
        self.saver.note(Decision(now, record.kind, record.sentence, data))
        self.outbox.announce(record, self.rollout, users=self.users, at=now, note=note)
        level = logging.WARNING if record.kind in _ALARMING else logging.INFO
        _log.log(level, "route %s: %s%s", self.name, record.sentence, f" [{note}]" if note else "")

    def _mark(self, mark: Mark) -> None:
        if self._marks is not None:
            self._marks.write(self.name, mark)

    def _written(self, rollout: Rollout) -> None:
        if rollout.revision == self.rollout.revision:
            self._mark(mark_of(rollout))
            show(self._board, self.slot, self.config, self.rollout.split)


def _new_salt(old: int) -> int:
    salt = secrets.randbits(32)
    return salt if salt != old else salt ^ 1


def _kept(saved: Saved | None, what: str, default: Any) -> Any:
    """What was saved beside the evidence; it is about the users, whatever the pools are."""
    return ((saved.evidence if saved else None) or {}).get(what, default)


def _evidence(saved: Saved | None, rollout: Rollout) -> dict[str, Any] | None:
    """The saved evidence, if it is about the same pools; at rest it is about stable, whoever the next canary is."""
    if saved is None or saved.rollout["stable"] != rollout.stable:
        return None
    return saved.evidence if rollout.phase is Phase.IDLE or saved.rollout["canary"] == rollout.canary else None
