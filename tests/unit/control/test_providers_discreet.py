"""Complaints about a provider have none of its secrets in them."""

from __future__ import annotations

from typing import Any

import pytest

from canaryproxy.control.providers import NoAnswerError, Question, _Discreet
from canaryproxy.control.providers.fetch import Fetch


async def test_a_complaint_has_no_secret_in_it() -> None:
    class Repeats:
        async def ask(self, question: Question) -> Any:
            raise NoAnswerError("what is at /a is 'Bearer s3cret', which is no number")

    fetch = Fetch(None, 1.0, ("s3cret",), True)  # type: ignore[arg-type]
    with pytest.raises(NoAnswerError) as refused:
        await _Discreet(Repeats(), fetch).ask(Question({}, 0.0, 1.0, 1.0, 1.0))
    assert "s3cret" not in str(refused.value)
