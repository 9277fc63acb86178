"""Which share of the requests the canary is to expect, from what its users sent before."""

from __future__ import annotations

import json

import pytest

from canaryproxy.control.sampler import Sampler
from canaryproxy.control.share import Share
from canaryproxy.routing.split import seat
from canaryproxy.shared import layout
from canaryproxy.shared.board import AckRow, Board
from canaryproxy.shared.layout import CANARY, STABLE
from canaryproxy.shared.ledger import Counters

NEXT, LATER = 77, 78
#: Names of users, with what each sends in a minute: a few send most.
USERS = {f"user-{n}".encode(): 200 if n % 10 == 0 else 4 for n in range(300)}


class Rest:
    """A slot at rest, whose users send what they send; then a rollout."""

    def __init__(self) -> None:
        self.segment = layout.create(1, 2)
        for worker in range(2):
            AckRow(self.segment, worker).enter(100 + worker, 1.0)
        self.board = Board(self.segment)
        self.board.publish(0, 0, swapped=False, salt=1)
        self.board.publish_next_salt(0, NEXT)
        self.counters = [Counters(self.segment, worker, 0, STABLE) for worker in range(2)]
        self.now = 1000.0
        self.sampler = Sampler(self.segment, 0, self.now)

    def minute(self, salt: int = NEXT, factor: int = 1) -> None:
        for number, (name, count) in enumerate(USERS.items()):
            for _ in range(count * factor):
                self.counters[number % 2].begin(self.now, seat(salt, name), at_rest=True)
        self.tick(60.0)

    def tick(self, seconds: float = 1.0) -> float | None:
        self.now += seconds
        return self.sampler.sample(self.now).share

    def start(self, weight_bp: int, salt: int = NEXT) -> float | None:
        self.board.publish(0, weight_bp, swapped=False, salt=salt)
        self.board.publish_next_salt(0, LATER)
        return self.tick()


@pytest.fixture
def rest() -> Rest:
    rest = Rest()
    rest.tick()
    return rest


def expected(weight_bp: int, salt: int = NEXT) -> float:
    canary = sum(count for name, count in USERS.items() if seat(salt, name).bucket < weight_bp)
    return canary / sum(USERS.values())


@pytest.mark.parametrize("weight_bp", [1_000, 2_500, 5_000, 10_000])
def test_the_share_is_what_the_canarys_users_sent(rest: Rest, weight_bp: int) -> None:
    rest.minute()
    assert rest.start(weight_bp) == pytest.approx(expected(weight_bp))
    assert rest.tick() == pytest.approx(expected(weight_bp)), "and stays so"


def test_too_little_is_known_of_few_requests(rest: Rest) -> None:
    rest.minute()
    assert rest.start(1) is None
    assert rest.start(5_000) is not None


def test_what_was_sent_since_the_last_reading_counts_when_the_rollout_begins(rest: Rest) -> None:
    for number, (name, count) in enumerate(USERS.items()):
        for _ in range(count):
            rest.counters[number % 2].begin(rest.now, seat(NEXT, name), at_rest=True)
    assert rest.start(5_000) == pytest.approx(expected(5_000))


def test_another_salt_than_the_one_that_was_drawn_is_unknown(rest: Rest) -> None:
    rest.minute()
    assert rest.start(5_000, salt=4) is None


def test_what_is_long_ago_fades(rest: Rest) -> None:
    rest.minute()
    heavy = next(name for name in USERS if seat(NEXT, name).bucket >= 5_000)
    for _ in range(40):
        for _ in range(300):
            rest.counters[0].begin(rest.now, seat(NEXT, heavy), at_rest=True)
        rest.tick(60.0)
    share = rest.start(5_000)
    assert share is None or share < expected(5_000) / 10


def test_a_rollout_at_weight_0_forgets_nothing(rest: Rest) -> None:
    rest.minute()
    known = rest.start(5_000)
    rest.board.publish(0, 0, swapped=False, salt=NEXT)
    assert rest.tick() is None
    rest.minute(salt=LATER)
    rest.board.publish(0, 5_000, swapped=False, salt=NEXT)
    assert rest.tick() == pytest.approx(known)


def test_the_next_rollout_has_its_own(rest: Rest) -> None:
    rest.minute()
    rest.start(5_000)
    rest.board.publish(0, 0, swapped=True, salt=NEXT)
    rest.tick()
    rest.minute(salt=LATER)
    assert rest.start(5_000, salt=LATER) == pytest.approx(expected(5_000, LATER))


def test_it_survives_a_new_sampler_and_a_restart(rest: Rest) -> None:
    rest.minute(factor=2)
    state = json.loads(json.dumps(rest.sampler.weights))
    rest.sampler = Sampler(rest.segment, 0, rest.now, rest.sampler.share)
    known = rest.start(5_000)
    assert known == pytest.approx(expected(5_000))
    rest.sampler = Sampler(rest.segment, 0, rest.now, Share(rest.segment, 0, state))
    assert rest.tick() == pytest.approx(expected(5_000), rel=0.01)
    assert len(json.dumps(state)) < 20_000


def test_nothing_known_is_no_state() -> None:
    segment = layout.create(1, 1)
    Board(segment).publish(0, 100, swapped=False, salt=1)
    sampler = Sampler(segment, 0, 1.0)
    sampler.sample(2.0)
    assert sampler.weights is None


def test_what_the_canary_gets_is_not_gathered(rest: Rest) -> None:
    Counters(rest.segment, 0, 0, CANARY).begin(rest.now, seat(NEXT, b"anna"))
    rest.minute()
    assert rest.start(10_000) == 1.0


def test_it_is_not_trusted_where_many_who_will_be_judged_have_no_user_yet(rest: Rest) -> None:
    """A cookie is given only in a rollout: at rest those who have one are few, and send more than others."""
    keyed = sum(USERS.values())
    for _ in range(keyed // 3):
        rest.counters[0].begin(rest.now)
    rest.minute()
    assert rest.start(5000) is None


def test_a_few_without_a_user_do_not_matter(rest: Rest) -> None:
    for _ in range(sum(USERS.values()) // 10):
        rest.counters[0].begin(rest.now)
    rest.minute()
    assert rest.start(5000) == pytest.approx(expected(5000))
