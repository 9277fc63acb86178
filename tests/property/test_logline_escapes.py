"""Whatever bytes a client sends, its exchange is one line of the access log, and the line says which bytes they were."""

from __future__ import annotations

import json
import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.http1.logline import _END, _FIRST, MAX_LINE, Entry, as_combined, as_json

NASTY = st.sampled_from(
    [b" ", b'"', b"\\", b"\n", b"\r", b"\0", b"\x1b[2J", b'","status":1}', b"\\u0022", rb"\x22", b"\xff", "é\u2028".encode()]
)
TEXT = st.one_of(st.binary(max_size=30), st.lists(NASTY | st.binary(max_size=3), max_size=8).map(b"".join))
LONG = st.tuples(TEXT, st.integers(1, 2000)).map(lambda pair: (pair[0] * pair[1])[:40_000])
SECONDS = st.none() | st.floats(0, 1e6)
COUNT = st.integers(0, 2**63 - 1)
NUMBERS = (st.sampled_from([0, 101, 200, 599]), COUNT, COUNT, *[SECONDS] * 5, st.integers(0, 9), st.booleans())


def entries(text: st.SearchStrategy[bytes]) -> st.SearchStrategy[Entry]:
    return st.builds(Entry, st.floats(0, 4e9), *[text] * (_END - _FIRST), *NUMBERS)


#: The reference of Apache's documentation ("combined"), with nginx's escapes.
COMBINED = re.compile(
    rb'(?P<client_ip>[^ ]+) - - \[(?P<time>\d\d/[A-Z][a-z][a-z]/\d{4}:\d\d:\d\d:\d\d \+0000)\] "(?P<request>[^"]*)"'
    rb' (?P<status>\d{3}) (?P<bytes_out>\d+) "(?P<referer>[^"]*)" "(?P<user_agent>[^"]*)"\n'
)


def unescape(value: bytes) -> bytes:
    assert not re.search(rb"\\(?!x[0-9A-F]{2})", value)
    return re.sub(rb"\\x(..)", lambda match: bytes.fromhex(match[1].decode()), value)


def check_line(line: bytes) -> None:
    assert len(line) <= MAX_LINE
    assert re.fullmatch(rb"[ -~]+\n", line)


def is_told(found: Any, value: bytes) -> bool:
    """Whether `found`, of a line of JSON, is this value, or its beginning with the mark of a cut."""
    told = b"" if found is None else found.encode("latin-1")
    return bool(told == value or (told.endswith(b"...") and value.startswith(told[:-3])))


@settings(max_examples=150, deadline=None)
@given(entries(TEXT))
def test_json_tells_every_byte(entry: Entry) -> None:
    line = as_json(entry)
    check_line(line)
    found = json.loads(line)
    assert tuple(found) == Entry._fields
    texts = dict(list(entry._asdict().items())[_FIRST:_END])
    if len(line) < MAX_LINE - 20:
        assert {name: (found[name] or "").encode("latin-1") for name in texts} == texts
        assert [found[name] is None for name in texts] == [not value for value in texts.values()]
    for name, value in list(entry._asdict().items())[_END:]:
        assert found[name] == (value or None if name == "status" else round(value, 6) if isinstance(value, float) else value)


@settings(max_examples=50, deadline=None)
@given(entries(TEXT | LONG))
def test_json_that_is_cut_tells_how_each_value_began(entry: Entry) -> None:
    line = as_json(entry)
    check_line(line)
    found = json.loads(line)
    assert all(is_told(found[name], value) for name, value in list(entry._asdict().items())[_FIRST:_END])


@settings(max_examples=150, deadline=None)
@given(entries(TEXT))
def test_combined_parses_back(entry: Entry) -> None:
    line = as_combined(entry)
    check_line(line)
    match = COMBINED.fullmatch(line)
    assert match
    found = {name: unescape(value) for name, value in match.groupdict().items()}
    request = (entry.method, entry.target, entry.proto)
    assert found["request"] == (b" ".join(request) if any(request) else b"-")
    for name in ("client_ip", "referer", "user_agent"):
        assert found[name] == (getattr(entry, name) or b"-")
    assert (int(found["status"]), int(found["bytes_out"])) == (entry.status or 499, entry.bytes_out)


@settings(max_examples=50, deadline=None)
@given(entries(TEXT | LONG))
def test_combined_that_is_cut_parses_too(entry: Entry) -> None:
    line = as_combined(entry)
    check_line(line)
    match = COMBINED.fullmatch(line)
    assert match
    for name in ("client_ip", "referer", "user_agent"):
        assert is_told(unescape(match[name]).decode("latin-1"), getattr(entry, name) or b"-")
