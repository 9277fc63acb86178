"""The drill's parts, each repeated a few times on one stage: what is done, and what is measured meanwhile. Asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from canaryproxy.cli.demo.scenario import Fault
from canaryproxy.cli.drill.results import Measured, Rehearsal
from canaryproxy.cli.drill.stage import Stage
from canaryproxy.cli.text import Answer
from canaryproxy.clock import SystemClock

#: Milliseconds that a rollback by hand may take: more than a hundred times what it does take on an idle machine.
BY_HAND_MS = 1_000.0
#: Milliseconds beyond it: for the start of the command's own process; for the supervisor to notice that the controller has died
#: and start another; for the answer to wait for a save that cannot succeed.
_COMMAND_MS, _RESTART_MS, _SAVE_MS = 3_000.0, 5_000.0, 2_500.0
#: By hand it is done under load: half of the users are on the canary.
_HALF = "50%"
#: Seconds in which the analysis has to find a fault that hits every second request of the first step's users.
_FOUND = 30.0
#: Seconds in which the users have told what failed, and in which a save is to succeed again.
_TELLING, _SAVED_AGAIN = 0.6, 10.0
_NOW = SystemClock.monotonic

_ACKNOWLEDGED = "command to acknowledged by all workers"
_LAST = "command to last canary request"


@dataclass(frozen=True, slots=True)
class Part:
    """One rehearsal: how often it is repeated by default, and what does it."""

    rehearsal: Rehearsal
    times: int
    fault: Fault
    perform: Callable[[Stage, Rehearsal], Awaitable[None]]


def parts(limit_ms: float) -> Iterator[Part]:
    """All of them, in the order in which they are done; `limit_ms` is for a rollback by hand."""

    def by_hand(name: str, sentence: str, more: float = 0.0) -> Rehearsal:
        return Rehearsal(name, sentence, [Measured(_ACKNOWLEDGED, limit_ms + more), Measured(_LAST, limit_ms + more)])

    def found(name: str, sentence: str) -> Rehearsal:
        return Rehearsal(name, sentence, [Measured("fault to last canary request", _FOUND * 1000)])

    yield Part(by_hand("by-hand", "rollback by hand through the API, under load"), 5, Fault.NONE, _by_hand)
    command = by_hand("command", "rollback by the command `canaryproxy rollback`, under load", _COMMAND_MS)
    yield Part(command, 2, Fault.NONE, _by_command)
    yield Part(found("errors", "the canary answers every second request with 500"), 2, Fault.ERRORS, _automatic)
    yield Part(found("hang", "the canary leaves every second request without an answer"), 2, Fault.HANG, _automatic)
    dead = by_hand("dead", "rollback by hand, the canary's server is dead")
    yield Part(dead, 2, Fault.NONE, _dead)
    killed = by_hand("controller", "rollback by hand, the controller was killed just before", _RESTART_MS)
    yield Part(killed, 2, Fault.NONE, _controller)
    unwritten = by_hand("state", "rollback by hand, the state cannot be written")
    unwritten.measured[0].limit_ms = limit_ms + _SAVE_MS
    yield Part(unwritten, 2, Fault.NONE, _state)


async def _by_hand(stage: Stage, rehearsal: Rehearsal) -> None:
    await stage.begin(_HALF)
    await _measure(stage, rehearsal, stage.roll_back)


async def _by_command(stage: Stage, rehearsal: Rehearsal) -> None:
    await stage.begin(_HALF)
    await _measure(stage, rehearsal, stage.roll_back_by_command)


async def _measure(stage: Stage, rehearsal: Rehearsal, ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """Ask for a rollback, and note how long it took to be acknowledged and to be in force."""
    asked, answer = await _acknowledged(rehearsal, ask)
    began = await stage.last_canary_request(_NOW())
    rehearsal.measured[1].times_ms.append(max(0.0, (began or asked) - asked) * 1000)
    rehearsal.hurt.append(len(stage.hurt_users))
    return answer


async def _acknowledged(rehearsal: Rehearsal, ask: Callable[[], Awaitable[Answer]]) -> tuple[float, Answer]:
    """When it was asked for, and the answer."""
    asked = _NOW()
    answer = await ask()
    rehearsal.measured[0].times_ms.append((_NOW() - asked) * 1000)
    if answer["phase"] != "rolled_back" or answer["applied_by"] < answer["workers"]:
        rehearsal.objections.append(f"{answer['phase']}, applied by {answer['applied_by']} of {answer['workers']} workers")
    return asked, answer


async def _automatic(stage: Stage, rehearsal: Rehearsal) -> None:
    await stage.begin()
    stage.break_canary()
    await stage.until(lambda: stage.first_fault is not None, "the canary served no fault")
    first, phase = stage.first_fault or _NOW(), ""
    while _NOW() < first + _FOUND and phase != "rolled_back":  # a pause does not disarm it
        await asyncio.sleep(0.05)
        status = await stage.status()
        phase = status["phase"]
    (measured,) = rehearsal.measured
    if phase == "rolled_back":
        began = await stage.last_canary_request(_NOW())
        measured.times_ms.append(((began or first) - first) * 1000)
    else:
        measured.times_ms.append(None)
        why = f": {status['reason']}" if status["reason"] else ""
        rehearsal.objections.append(f"the route's rules did not roll it back within {_FOUND:g} s: it is {phase}{why}")
        await stage.roll_back()
    rehearsal.hurt.append(len(stage.failed_users))


async def _dead(stage: Stage, rehearsal: Rehearsal) -> None:
    await stage.begin(_HALF)
    await stage.kill_canary()
    await _acknowledged(rehearsal, stage.roll_back)
    rehearsal.measured[1].times_ms.append(0.0)  # nothing was there to begin one
    await asyncio.sleep(_TELLING)
    rehearsal.hurt.append(len(stage.hurt_users))
    await stage.cast(Fault.NONE)


async def _controller(stage: Stage, rehearsal: Rehearsal) -> None:
    await stage.begin(_HALF)
    if not stage.kill_controller():
        rehearsal.skipped = "the controller cannot be told from a worker here (no /proc)"
        return
    await _measure(stage, rehearsal, stage.roll_back)


async def _state(stage: Stage, rehearsal: Rehearsal) -> None:
    await stage.begin(_HALF)
    if not stage.forbid_writing(True):
        rehearsal.skipped = "a process cannot be kept from writing here (no prlimit)"
        return
    try:
        answer = await _measure(stage, rehearsal, stage.roll_back)
    finally:
        stage.forbid_writing(False)
    if answer["saved"]:
        rehearsal.objections.append("the proxy says that it saved what it could not save")
    limit = _NOW() + _SAVED_AGAIN
    while not (await stage.status())["saved"]:
        if _NOW() > limit:
            rehearsal.objections.append(f"not saved within {_SAVED_AGAIN:g} s after it could be")
            return
        await asyncio.sleep(0.1)
