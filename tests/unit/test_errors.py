"""Texts from outside on their one line."""

from __future__ import annotations

import pytest

from canaryproxy.errors import one_line


@pytest.mark.parametrize("text", ["a\nb", "a\x1b b", "a \u202e b", "a\udce9b", " a\t b\r\n"])
def test_a_text_from_outside_stays_on_its_line(text: str) -> None:
    assert one_line(text) == "a b"
