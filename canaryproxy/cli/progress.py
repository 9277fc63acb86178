"""Which rollout a job follows, and what its end is: read from status documents and the decision log. Pure; called by `deploy`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from canaryproxy.cli.text import Answer

#: Exit codes of `start --wait`.
PROMOTED, ROLLED_BACK, TIMED_OUT = 0, 1, 2

_STARTS = ("start", "restart", "retry")


class End(NamedTuple):
    """How it ended: the exit code, a word for programs, a sentence for people."""

    code: int
    result: str
    sentence: str


@dataclass(slots=True)
class Job:
    """One rollout of `route`: that of the deploy with this id, else the one that started with `rollout` (salt, start)."""

    route: str
    deploy: str | None = None
    rollout: tuple[str, str] | None = None

    @property
    def has_started(self) -> bool:
        """Whether users have been given to it, as far as was seen."""
        return self.rollout is not None

    def look(self, status: Answer) -> End | None:
        """Its end, if this status shows one. Raises LookupError where the status is about another rollout: ask the log."""
        if self.rollout is None and self.deploy is not None:
            deploy = status["deploy"] or {}
            if deploy.get("id") != self.deploy:
                raise LookupError
            if deploy["state"] in ("refused", "called_off"):
                return End(ROLLED_BACK, deploy["state"], f"not started: {deploy['detail']}")
            if deploy["state"] != "started":
                return None
            self.rollout = _rollout(status)
        if _rollout(status) != self.rollout or status["phase"] == "idle":
            raise LookupError
        if status["phase"] == "promoted":
            return End(PROMOTED, "promoted", f"promoted: 100% on {status['stable']['pool']}, which is stable now")
        if status["phase"] == "rolled_back":
            return End(ROLLED_BACK, "rolled_back", f"rolled back: {status['reason']}")
        return None

    def read(self, decisions: Sequence[Answer]) -> End | None:
        """Its end by the decision log (newest first), None if that knows of none."""
        begun = False
        for row in reversed(decisions):
            if not begun:
                begun = self._is_begin(row)
            elif (end := self._end_of(row)) is not None:
                return end
        return None

    def _is_begin(self, row: Answer) -> bool:
        if self.rollout is None:
            return bool(row["kind"] == "deploy" and row["data"].get("deploy") == self.deploy)
        return row["kind"] in _STARTS and row["at"] >= datetime.fromisoformat(self.rollout[1]).timestamp() - 0.001

    def _end_of(self, row: Answer) -> End | None:
        kind, sentence, data = row["kind"], row["sentence"], row["data"]
        if kind == "promoted":
            return End(PROMOTED, "promoted", sentence)
        if kind == "rollback":
            return End(ROLLED_BACK, "rolled_back", sentence)
        if kind == "deploy":
            if data.get("deploy") != self.deploy:
                return End(ROLLED_BACK, "superseded", f"superseded by a {sentence}")
            return None if data.get("state") == "asked" else End(ROLLED_BACK, str(data.get("state")), sentence)
        if kind in _STARTS and self.rollout is not None:
            return End(ROLLED_BACK, "superseded", f"superseded: {sentence}")
        return None


def started(answer: Answer) -> Job:
    """The job of a rollout that this answer says has just started."""
    return Job(answer["route"], None, _rollout(answer))


def _rollout(status: Answer) -> tuple[str, str]:
    return status["salt_id"], status["started_at"]


def place(status: Answer, job: Job) -> str:
    """Where it stands, for people: a line that changes when something happened."""
    if not job.has_started:
        return f"waiting: {(status['deploy'] or {}).get('detail') or 'for the servers of the canary'}"
    share = f"{status['weight_percent']:g}% of users on {(status['canary'] or status['stable'])['pool']}"
    frozen = ", frozen while stable itself is bad" if status["frozen"] else ""
    match status["phase"]:
        case "baking":
            return f"bake: {share}{frozen}"
        case "paused":
            return f"paused at step {status['step']} of {status['steps']}: {share}{frozen}; {status['reason']}"
    gate = f", waits for {status['gate'].replace('_', ' ')}" if status.get("gate") else ""
    return f"step {status['step']} of {status['steps']}: {share}{gate}{frozen}"
