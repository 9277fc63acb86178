"""Regular expressions that a request's value cannot make run for ever."""

from __future__ import annotations

import pytest

from canaryproxy.config.check_overrides import _regex


@pytest.mark.parametrize("regex", ["a?" * 28 + "a" * 28, "(?x)(?:a|aa) +b"])
def test_a_regex_that_can_take_for_ever_is_refused(regex: str) -> None:
    assert list(_regex("place", regex))


@pytest.mark.parametrize("regex", [r"v?\d+(\.\d+)?(-rc)?", "[a-z]+-[0-9]+", r"(?i:de|at).*?", r"\(?x"])
def test_usual_ones_are_not(regex: str) -> None:
    assert not list(_regex("place", regex))
