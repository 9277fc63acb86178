"""Which slot of the shared segment each route has. Kept by the supervisor, given to all others when they are forked.

A slot belongs to a route *and its two pools*: when a route gets another pool it gets another slot, so that workers of the old
configuration keep reading a word that means what they think it means.
"""

from __future__ import annotations

from collections.abc import Mapping

from canaryproxy.config.schema import Route
from canaryproxy.errors import StartError
from canaryproxy.shared.layout import BLOCK_WORDS, BOARD_WORDS, USERS_WORDS, VARIANTS, Ack, Segment


class Slots:
    """The assignment of slots over the life of one segment."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._taken: dict[tuple[str, str, str | None], int] = {}

    def assign(self, routes: Mapping[str, Route], in_use: set[int]) -> dict[str, int]:
        """A slot for each route: the one it had, else one that is neither taken nor `in_use` by a living worker, cleared."""
        keys = {name: (name, route.stable, route.canary) for name, route in routes.items()}
        kept = {key: self._taken[key] for key in keys.values() if key in self._taken}
        busy = set(kept.values()) | in_use
        free = (slot for slot in range(self._segment.layout.slots) if slot not in busy)
        for key in keys.values():
            if key not in kept:
                slot = next(free, None)
                if slot is None:
                    raise StartError("routes", "more routes than the shared memory was made for", "restart for so many")
                self._clear(slot)
                kept[key] = slot
        self._taken = {**{key: slot for key, slot in self._taken.items() if slot in in_use}, **kept}
        return {name: kept[key] for name, key in keys.items()}

    def of(self, route: str | None) -> dict[int, str]:
        """The slots of a route (None: of every one) and its name, with those that only older workers still read, newest last."""
        return {slot: name for (name, _, _), slot in self._taken.items() if route in (None, name)}

    def _clear(self, slot: int) -> None:
        layout, words = self._segment.layout, self._segment.words
        row = layout.board_row(slot)
        if not any(words[row : row + BOARD_WORDS]):
            return
        used = [worker for worker in range(layout.workers) if words[layout.ack_row(worker) + Ack.PULSE]]
        ranges = [(row, BOARD_WORDS)]
        ranges += [(layout.block(worker, slot, v), BLOCK_WORDS) for worker in used for v in range(VARIANTS)]
        ranges += [(layout.users(worker, slot), USERS_WORDS) for worker in used]
        for start, count in ranges:
            words[start : start + count] = memoryview(bytes(count * 8)).cast("Q")
