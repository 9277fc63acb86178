"""From what was saved to what is served: the registered pools and the rollouts after a start, and the splits on the board.

Called by the supervisor before it forks anything, so that no request is ever served by roles that are out of date, and by the
controller at each of its starts. Both come to the same result: nothing is saved here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple

from canaryproxy.clock import Clock, SystemClock
from canaryproxy.config import schema
from canaryproxy.config.overlay import Laid, Registered, lay
from canaryproxy.config.schema import Config
from canaryproxy.rollout.machine import advance
from canaryproxy.rollout.model import Phase, Record, Rollback, Rollout, Split
from canaryproxy.rollout.roles import reconcile
from canaryproxy.shared import board as shared
from canaryproxy.shared.board import Board
from canaryproxy.store.base import Saved
from canaryproxy.store.sqlite import SqliteStore

_UNSAVED = "the workers had been taken off it, and the store does not know why: a rollback is never undone by a restart"

_log = logging.getLogger("canaryproxy.control")


class Recovered(NamedTuple):
    """A route's rollout, what to put on record about it, and a sentence for the log if something was decided."""

    rollout: Rollout
    records: tuple[Record, ...]
    sentence: str | None


def recover_pools(file: Config, registered: Mapping[str, Registered] | None = None) -> Laid:
    """The file's configuration with the registered pools (None: those in its store) laid over it; the log says who decided.

    Raises StoreError, or ConfigError where what was registered does not fit the file.
    """
    if registered is None:
        store = SqliteStore(file.state.path)
        try:
            registered = store.pools()
        finally:
            store.close()
    laid = lay(file, registered)
    for sentence in laid.sentences:
        _log.warning("%s", sentence)
    return laid


def recover(
    config: Config, slots: Mapping[str, int], board: Board, saved: Mapping[str, Saved], *, clock: Clock | None = None
) -> dict[str, Rollout]:
    """The rollout of each route in `slots`, which the board shows from now on. Raises StoreError for an unreadable record."""
    routes = config.routes
    return {
        name: recover_route(name, routes[name], slot, board, saved.get(name), clock=clock).rollout for name, slot in slots.items()
    }


def recover_route(
    name: str, route: schema.Route, slot: int, board: Board, saved: Saved | None, *, clock: Clock | None = None
) -> Recovered:
    """One route's rollout, which the board shows from now on."""
    rollout, sentence = reconcile(Rollout.from_dict(saved.rollout) if saved else None, name, route)
    records: tuple[Record, ...] = ()
    if _was_taken_back(rollout, route, board.read(slot)):
        rollout, effects = advance(rollout, Rollback(_UNSAVED, by="recovery"), (clock or SystemClock()).wall())
        records = tuple(effect for effect in effects if isinstance(effect, Record))
    show(board, slot, route, rollout.split)
    return Recovered(rollout, records, sentence)


def show(board: Board, slot: int, route: schema.Route, split: Split) -> int:
    """Make a split true for every request from now on; its epoch. The board knows pools by their order in the file."""
    return board.publish(slot, split.weight_bp, swapped=split.stable != route.stable, salt=split.salt)


def _was_taken_back(rollout: Rollout, route: schema.Route, seen: shared.Split) -> bool:
    """Whether the board, which outlives the controller, shows the rollback of a rollout that the record believes in.

    A rollback reaches the board before the disk; so does the supervisor's own, while no controller can be started. A weight
    that is merely lower than the record's was saved and not yet shown. Another salt: of an earlier rollout, same reason.
    """
    if not seen.epoch or seen.salt != rollout.salt or seen.weight_bp:
        return False
    if rollout.phase is Phase.PROMOTED:
        return seen.swapped != (rollout.stable != route.stable)
    return rollout.in_progress and rollout.weight_bp > 0
