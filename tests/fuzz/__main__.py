"""`python -m tests.fuzz`: mutates the seeds until the time is up or an invariant breaks. From the root of the repository.

Without atheris it keeps one input of each kind that an invariant reports; with `--engine atheris` (`pip install atheris`, an
optional tool) coverage leads it. Ends with status 1 and the input that breaks an invariant; `--seed` begins the same way again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Hashable, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, Final

from .mutation import mutate
from .seeds import CHUNKED, REQUESTS, RESPONSES

if TYPE_CHECKING:
    from .invariants import Check

#: The invariants, and the comparisons with h11 and httptools.
_SEEDS: Final[dict[str, Sequence[bytes]]] = {
    "head": REQUESTS,
    "chunked": CHUNKED,
    "framing": REQUESTS,
    "response": RESPONSES,
    "request-oracles": REQUESTS,
    "response-oracles": RESPONSES,
}
_MOST_KEPT = 4000
_ROUND = 2000


class Finding(Exception):  # noqa: N818  # it is what is looked for
    """An invariant is broken by these bytes, cut at these places."""


class Fuzzer:
    """One target, its inputs so far, and how often it ran."""

    def __init__(self, target: str, seed: int) -> None:
        self.target = target
        self.runs = 0
        self._check = _check_of(target)
        self._random = Random(seed)
        self._inputs = list(_SEEDS[target])
        self._kinds: set[Hashable] = set()

    @property
    def kinds(self) -> int:
        """How many kinds of input there were."""
        return len(self._kinds)

    def run(self, times: int) -> None:
        """Try so many inputs; raises `Finding`."""
        for _ in range(times):
            data = mutate(self._random.choice(self._inputs), self._inputs, self._random)
            kind = self.try_input(data, self._cuts(len(data)))
            if kind not in self._kinds and len(self._inputs) < _MOST_KEPT:
                self._kinds.add(kind)
                self._inputs.append(data)

    def try_input(self, data: bytes, cuts: Sequence[int]) -> Hashable:
        """Its kind; raises `Finding`."""
        self.runs += 1
        try:
            return self._check(data, cuts)
        except Exception as error:  # whatever it is, no input may raise it
            raise Finding(f"{self.target}: {error!r} from {data!r} cut at {list(cuts)}") from error

    def _cuts(self, size: int) -> Sequence[int]:
        if not self._random.randrange(16):
            return range(min(size, 300))
        return sorted(self._random.randrange(size + 1) for _ in range(self._random.choice((1, 2, 3))))


def _check_of(target: str) -> Check:
    if target.endswith("-oracles"):  # imports are late: atheris instruments what is imported after it, and h11 may be missing
        from . import oracles

        return {"request-oracles": oracles.request, "response-oracles": oracles.response}[target]
    from . import invariants

    return invariants.CHECKS[target]


def fuzz(targets: Sequence[str], seconds: float, seed: int) -> list[Fuzzer]:
    """Run the targets in turn until the time is up."""
    fuzzers = [Fuzzer(target, seed) for target in targets]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for fuzzer in fuzzers:
            fuzzer.run(_ROUND)
    return fuzzers


def _fuzz_with_atheris(targets: Sequence[str], seconds: float, seed: int) -> None:
    import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]

    with atheris.instrument_imports(include=["canaryproxy.http1"]):
        fuzzers = [Fuzzer(target, seed) for target in targets]

    def one_input(data: bytes) -> None:
        """The first byte says which target, the second where to cut."""
        if len(data) > 2:
            body = data[2:]
            fuzzers[data[0] % len(fuzzers)].try_input(body, (data[1] % (len(body) + 1),))

    def custom_mutator(data: bytes, max_size: int, number: int) -> bytes:
        random = Random(number)
        if random.randrange(3) == 0 or len(data) < 3:
            return bytes(atheris.Mutate(data, max_size))
        seeds = _SEEDS[fuzzers[data[0] % len(fuzzers)].target]
        body = mutate(data[2:] if random.randrange(8) else random.choice(seeds), seeds, random)
        return (data[:1] + bytes((random.randrange(256),)) + body)[:max_size]

    options = [f"-max_total_time={int(seconds)}", "-max_len=2048", f"-seed={seed}", "-print_final_stats=1", "-rss_limit_mb=1024"]
    atheris.Setup([sys.argv[0], *options], one_input, custom_mutator=custom_mutator)
    atheris.Fuzz()


def main() -> int:
    """Status 1 if an invariant is broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="fuzz canaryproxy.http1")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=list(_SEEDS), action="append", help="all of them without this")
    parser.add_argument("--engine", choices=["plain", "atheris"], default="plain")
    options: Any = parser.parse_args()
    targets = options.target or list(_SEEDS)
    if options.engine == "atheris":
        _fuzz_with_atheris(targets, options.seconds, options.seed)
        return 0
    try:
        fuzzers = fuzz(targets, options.seconds, options.seed)
    except Finding as finding:
        print(finding)
        return 1
    for fuzzer in fuzzers:
        print(f"{fuzzer.target}: {fuzzer.runs} inputs of {fuzzer.kinds} kinds, nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
