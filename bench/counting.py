"""What counting costs: a request in nanoseconds and bytecodes, a tick in milliseconds. `python -m bench.counting`.

The figures of docs/decisions: medians of many short runs, on one core; run it on an idle machine.
"""

from __future__ import annotations

import random
import sys
import timeit
from collections.abc import Callable
from statistics import mean, median
from time import perf_counter
from types import FrameType
from typing import Any

from canaryproxy.control.sampler import Sampler
from canaryproxy.http1.framing import frame_request
from canaryproxy.http1.head import HeadRules, RequestLine, parse_request_block
from canaryproxy.proxy.recall import Block
from canaryproxy.proxy.users import Users
from canaryproxy.routing.split import choose_variant, seat
from canaryproxy.shared import layout
from canaryproxy.shared.board import AckRow, Board
from canaryproxy.shared.layout import CANARY, STABLE, Count, Segment
from canaryproxy.shared.ledger import Counters

_KEY = b"user-123456"
_OK = int(Count.C2XX)
_QUESTIONS = {"latency_p95": (100_000, 112_500, 125_000, 150_000), "stalls": (1_000_000,)}
_RUN = 250  # requests of one user, whose cap is raised to that


def segment_for(workers: int) -> Segment:
    """A segment with so many workers, and a route at rest in slot 0."""
    segment = layout.create(4, workers)
    for worker in range(workers):
        AckRow(segment, worker).enter(1, 1.0)
    board = Board(segment)
    board.publish(0, 0, swapped=False, salt=1)
    board.publish_next_salt(0, 7)
    for second in range(16):
        board.publish_edges(0, second, _QUESTIONS["latency_p95"], 300_000)
    return segment


def one_request(variant: int, weight: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """All that is counted of a request, and what makes room for the next run."""
    counters, users, rules = Counters(segment_for(1), 0, 0, variant), Users(1), HeadRules()
    users._cap = 255
    fields = parse_request_block(b"Host: shop\r\n", rules)
    block = Block(fields, frame_request(RequestLine(b"GET", b"/", 1, None), fields, rules))  # type: ignore[arg-type]

    def request() -> None:
        user = block.seat(7, _KEY)
        choose_variant(weight, user)
        cohort = counters.begin(5.0, user, users.admit(user[2]), not weight)
        counters.finish(_OK, cohort, 0.05, user, False, 0, 1000, 44)

    def reset() -> None:
        users._judged[:] = bytes(len(users._judged))

    return request, reset


def bytecodes(function: Callable[[], None]) -> int:
    """How many bytecodes a call takes, with all that it calls."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    function()
    sys.settrace(trace)
    function()
    sys.settrace(None)
    return count


def ticks(workers: int, seconds: int = 120) -> list[float]:
    """Milliseconds of each `Sampler.sample` of a rollout at 5 % with 1000 requests a second of 20,000 users."""
    segment, draw, now = segment_for(workers), random.Random(1), 1000.2
    counters = {(worker, v): Counters(segment, worker, 0, v) for worker in range(workers) for v in (STABLE, CANARY)}
    Board(segment).publish(0, 500, swapped=False, salt=7)
    seats, sampler, times = [seat(7, b"user-%d" % n) for n in range(20_000)], Sampler(segment, 0, now), []
    for _ in range(seconds):
        sampler.publish(now, _QUESTIONS, 300_000)
        for n in range(1000):
            user = draw.choice(seats)
            one = counters[n % workers, choose_variant(500, user)]
            size, latency = int(draw.lognormvariate(8, 1)), draw.lognormvariate(-2.6, 0.55)
            one.finish(_OK, one.begin(now + n / 1000, user), latency, user, False, 0, size, 44 * (n % 20))
        now += 1.0
        began = perf_counter()
        sampler.sample(now)
        times.append((perf_counter() - began) * 1e3)
    return times[20:]


def main() -> None:
    """Print the figures."""
    for name, variant, weight in (("stable at rest", STABLE, 0), ("stable", STABLE, 500), ("canary", CANARY, 500)):
        request, reset = one_request(variant, weight)
        runs = timeit.repeat(request, setup=reset, number=_RUN, repeat=2000)
        print(f"request, {name}: {median(runs) / _RUN * 1e9:.0f} ns, {bytecodes(request)} bytecodes")
    for workers in (1, 2):
        times = ticks(workers)
        print(f"tick, {workers} workers: median {median(times):.2f} ms, mean {mean(times):.2f} ms, largest {max(times):.2f} ms")


if __name__ == "__main__":
    main()
