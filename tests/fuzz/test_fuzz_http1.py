"""The short form of `python -m tests.fuzz`: the same inputs each time, some two seconds of them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import pytest

from . import __main__ as runner
from .invariants import CHECKS
from .seeds import CHUNKED, REQUESTS, RESPONSES

SEEDS = {"head": REQUESTS, "framing": REQUESTS, "chunked": CHUNKED, "response": RESPONSES}


@pytest.mark.parametrize("target", CHECKS)
def test_seeds_cut_anywhere(target: str) -> None:
    for data in SEEDS[target]:
        CHECKS[target](data, range(len(data)))
        for cut in range(0, len(data), 5):
            CHECKS[target](data, (cut,))


@pytest.mark.parametrize("target", CHECKS)
def test_mutations(target: str) -> None:
    fuzzer = runner.Fuzzer(target, seed=1)
    fuzzer.run(10_000)
    assert fuzzer.kinds > 20


def test_a_broken_invariant_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_tabs(data: bytes, cuts: Sequence[int]) -> Hashable:
        assert b"\t" not in data
        return 0

    monkeypatch.setitem(CHECKS, "head", no_tabs)
    with pytest.raises(runner.Finding, match=r"(?s)^head: AssertionError.* from b.*\\t.* cut at \["):
        runner.fuzz(["head"], seconds=60, seed=0)


def test_an_exception_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHECKS, "head", lambda data, cuts: data[10_000])
    with pytest.raises(runner.Finding, match="IndexError"):
        runner.fuzz(["head"], seconds=60, seed=0)
