"""From what was saved to what is served: what was registered and the rollouts after a start, and the splits on the board.

Called by the supervisor before it forks anything, so that no request is ever served by roles that are out of date, and by the
controller at each of its starts. Both come to the same result: nothing is saved here.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from canaryproxy.clock import Clock, SystemClock
from canaryproxy.config import schema
from canaryproxy.config.overlay import Laid, Role, lay
from canaryproxy.config.schema import Config
from canaryproxy.control.forgotten import remember
from canaryproxy.control.takeback import Takeback
from canaryproxy.errors import StoreError
from canaryproxy.rollout.machine import advance
from canaryproxy.rollout.model import Phase, Record, Rollback, Rollout, Split
from canaryproxy.rollout.roles import reconcile
from canaryproxy.shared import board as shared
from canaryproxy.shared.board import Board
from canaryproxy.store.base import Saved
from canaryproxy.store.marks import Mark, Marks
from canaryproxy.store.sqlite import SqliteStore

_UNSAVED = "the workers had been taken off it, and the store does not know why: a rollback is never undone by a restart"

#: Seconds: far more than a mark takes.
_BRIEFLY = 0.05

_log = logging.getLogger("canaryproxy.control")


class Recovered(NamedTuple):
    """A route's rollout, what to put on record about it, and a sentence for the log if something was decided."""

    rollout: Rollout
    records: tuple[Record, ...]
    sentence: str | None


def recover_pools(file: Config, known: Laid | None = None) -> Laid:
    """The file's configuration with what was registered (None: with what is in its store) laid over it; the log says who decided.

    Raises StoreError, or ConfigError where what was registered does not fit the file.
    """
    if known is not None:
        laid = lay(file, known.registered, known.roles)
    else:
        store = SqliteStore(file.state.path)
        try:
            laid = lay(file, store.pools(), present_roles(store.roles(), store.load()))
        finally:
            store.close()
    for sentence in laid.sentences:
        _log.warning("%s", sentence)
    return laid


def present_roles(roles: Mapping[str, Role], saved: Mapping[str, Saved]) -> dict[str, Role]:
    """The roles as they hold now: whoever was to be the canary, stable is who the record says is stable.

    A deploy is registered before its workers take over; if somebody rolls back just then, the pool that was stable when it was
    registered must not come back. Once the record is about the deploy's own pools, these stay in their places (a promotion is
    in the record). Raises StoreError for an unreadable record.
    """
    present = {}
    for name, role in roles.items():
        if name in saved:
            record = Rollout.from_dict(saved[name].rollout)
            stable = role.stable if record.file_canary == role.canary else record.stable
            role = replace(role, stable=stable)  # noqa: PLW2901
        if role.stable != role.canary:
            present[name] = role
    return present


def open_marks(state: str) -> Marks | None:
    """The marks beside this state; None, and a word in the log, where there can be none: then it goes on without."""
    try:
        return Marks(state)
    except StoreError as error:
        _log.error("%s", error)
        return None


def mark_taken_back(state: str, salts: Mapping[str, int]) -> None:
    """What the board was told of these routes without a controller is known after a kill of everything, too.

    Waits for a disk that stands still only briefly: there are others to look after.
    """

    def mark() -> None:
        if marks := open_marks(state):
            for route, salt in salts.items():
                marks.take_back(route, salt)

    if salts:
        thread = threading.Thread(target=mark, name="marks", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # this machine has no room for a thread
            mark()
        else:
            thread.join(_BRIEFLY)


def recover(
    config: Config,
    slots: Mapping[str, int],
    board: Board,
    saved: Mapping[str, Saved],
    *,
    clock: Clock | None = None,
    takebacks: Sequence[Takeback] = (),
    marks: Marks | None = None,
) -> dict[str, Rollout]:
    """The rollout of each route in `slots`, which the board shows from now on. Raises StoreError for an unreadable record."""
    routes, mark = config.routes, marks.read if marks else _unmarked
    return {
        name: recover_route(
            name, routes[name], slot, board, saved.get(name), clock=clock, takebacks=takebacks, mark=mark(name)
        ).rollout
        for name, slot in slots.items()
    }


def recover_route(
    name: str,
    route: schema.Route,
    slot: int,
    board: Board,
    saved: Saved | None,
    *,
    clock: Clock | None = None,
    takebacks: Sequence[Takeback] = (),
    mark: Mark | None = None,
) -> Recovered:
    """One route's rollout, which the board shows from now on."""
    rollout, sentence = reconcile(Rollout.from_dict(saved.rollout) if saved else None, name, route)
    now = (clock or SystemClock()).wall()
    rollout, records = _take_back(rollout, takebacks, now)  # first: the record says who asked
    rollout, remembered = remember(rollout, mark, now, lost=saved is None)
    records += remembered
    if _was_taken_back(rollout, route, board.read(slot)):
        rollout, effects = advance(rollout, Rollback(_UNSAVED, by="recovery"), now)
        records += tuple(effect for effect in effects if isinstance(effect, Record))
    show(board, slot, route, rollout.split)
    return Recovered(rollout, records, None if records else sentence)  # it does not go on then


def show(board: Board, slot: int, route: schema.Route, split: Split) -> int:
    """Make a split true for every request from now on; its epoch. The board knows pools by their order in the file."""
    swapped = split.stable != route.stable
    return board.publish(slot, split.weight_bp, swapped=swapped, salt=split.salt, overrides=split.overrides)


def _take_back(rollout: Rollout, takebacks: Sequence[Takeback], now: float) -> tuple[Rollout, tuple[Record, ...]]:
    """The rollout after the rollbacks that were asked for past the controller, and what to put on record.

    Of an earlier life (not `heard`): one that was performed, or that is older than this rollout, is none. Of every route: only
    what is in progress.
    """
    records: tuple[Record, ...] = ()
    for takeback in takebacks:
        old = not takeback.heard and max(rollout.started_at or 0.0, _rolled_back_at(rollout)) >= takeback.at
        if old or (takeback.route != rollout.route and not (takeback.route is None and rollout.in_progress)):
            continue
        rollout, effects = advance(rollout, Rollback(takeback.reason, by=takeback.by), now)
        records += tuple(effect for effect in effects if isinstance(effect, Record))
    return rollout, records


def _rolled_back_at(rollout: Rollout) -> float:
    return (rollout.ended_at or 0.0) if rollout.phase is Phase.ROLLED_BACK else 0.0


def _unmarked(route: str) -> None:
    """Nothing is known of it."""


def _was_taken_back(rollout: Rollout, route: schema.Route, seen: shared.Split) -> bool:
    """Whether the board, which outlives the controller, shows the rollback of a rollout that the record believes in.

    A rollback reaches the board before the disk; so does the supervisor's own, while no controller can be started. Both take
    the flag for beta groups down, which is up as long as a rollout is in progress; so a weight that is merely lower than the
    record's, in a gate 0, was saved and not yet shown. Another salt: of an earlier rollout, same reason.
    """
    if not seen.epoch or seen.salt != rollout.salt or seen.weight_bp or seen.overrides:
        return False
    if rollout.phase is Phase.PROMOTED:
        return seen.swapped != (rollout.stable != route.stable)
    return rollout.in_progress
