"""What kind of request a request line is: which conversions it may be, and whose sizes it is compared with. Pure.

Asked once for each distinct request line (`proxy.recall` keeps the answers).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

import mmh3

from canaryproxy.routing.match import normalise

#: A route's goals: a bit of a byte for each, so that one byte says which of them a user has met.
MOST_GOALS: Final = 8
#: What names one thing among many of its kind, where it is a whole segment: a number, a long hexadecimal string, a UUID.
_name = re.compile(rb"(?<=/)(?:[0-9]++|[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}|[0-9A-Fa-f]{8,}+)(?![^/])")


class GoalRule(NamedTuple):
    """A conversion: a request of this method and path that was answered with a status of `first`..`last`.

    `path` is compared without query, as routes are (`routing.match`); one that ends in `/` is a prefix.
    """

    method: bytes
    path: bytes
    first: int
    last: int

    def matches(self, method: bytes, path: bytes) -> bool:
        """Whether a request of this method and normalised path is meant."""
        return method == self.method and (path.startswith(self.path) if self.path.endswith(b"/") else path == self.path)


def goal_rule(method: str, path: str, status: str) -> GoalRule:
    """The rule as people write it: `status` is `201`, or `2xx` for a whole class."""
    if status[1:].lower() == "xx":
        first = int(status[0]) * 100
        return GoalRule(method.encode(), path.encode(), first, first + 99)
    return GoalRule(method.encode(), path.encode(), int(status), int(status))


def match_goals(rules: Sequence[GoalRule | None], method: bytes, target: bytes) -> int:
    """The goals that this request line may be, a bit for each: bit n for the n-th rule (None: nothing matches)."""
    path = normalise(target)
    return sum(1 << n for n, rule in enumerate(rules) if rule is not None and rule.matches(method, path))


def reached(rules: Sequence[GoalRule | None], goals: int, status: int) -> int:
    """Those of the `goals` (bits) that an answer with this status makes a conversion."""
    return sum(
        1 << n for n, rule in enumerate(rules) if rule is not None and goals >> n & 1 and rule.first <= status <= rule.last
    )


#: Bytes of a target that tell its kind.
_SHAPED: Final = 256


def size_class(method: bytes, target: bytes, classes: int) -> int:
    """The class (0 <= class < classes) of requests like this one: same method, same path but for what names one thing of many."""
    path = target[:_SHAPED].partition(b"?")[0]
    return mmh3.hash(method + b" " + _name.sub(b"*", path), 0, signed=False) % classes
