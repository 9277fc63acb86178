"""What one worker remembers of a route's users for a while: so that the statistics are of users, not of requests.

A user is a place in a table (`routing.split.Seat.cap`): two of 65,536 may share one, who then count as one. `proxy.sweep` begins
new windows. Those of the cap begin at another second for each tenth of the users: began they all at once, busy users would be
counted for some seconds and then nobody for the rest of ten, and a fault would have to wait.
"""

from __future__ import annotations

from typing import Final

#: Judged requests of one user in a window: half a request a second says as much of a user as a hundred would. Divided among the
#: workers, rounded up: a user keeps few connections, so usually it is one worker that meets him.
CAP: Final = 5
CAP_SECONDS: Final = 10
#: A goal is met once by a user in this time.
GOAL_SECONDS: Final = 60
_PLACES: Final = 1 << 16
_TENTH: Final = -(-_PLACES // CAP_SECONDS)


class Users:
    """The users of one route in one worker of `workers`."""

    __slots__ = ("_cap", "_goal_window", "_judged", "_met", "_second")

    def __init__(self, workers: int) -> None:
        self._cap = -(-CAP // workers)
        self._second = self._goal_window = -1
        self._judged = bytearray(_PLACES)
        self._met = bytearray(_PLACES)

    def admit(self, place: int) -> bool:
        """Whether one more request of this user is judged in this window; counts it."""
        judged = self._judged
        if (count := judged[place]) >= self._cap:
            return False
        judged[place] = count + 1
        return True

    def meet(self, place: int, goals: int) -> int:
        """Those of the `goals` (bits) that this user had not met in this window, and has now."""
        new = goals & ~self._met[place]
        self._met[place] |= new
        return new

    def look(self, now: float) -> None:
        """Begin new windows when it is time; `now` is in monotonic seconds, which all workers share."""
        second, goal_window = int(now), int(now // GOAL_SECONDS)
        for one in range(max(self._second, second - CAP_SECONDS) + 1, second + 1):
            begin = one % CAP_SECONDS * _TENTH
            places = len(self._judged[begin : begin + _TENTH])
            self._judged[begin : begin + places] = bytes(places)
        self._second = second
        if goal_window != self._goal_window:
            self._goal_window = goal_window
            self._met = bytearray(_PLACES)
