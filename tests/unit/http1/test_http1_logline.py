"""Lines of the access log: what is in them, what never is, and how a value is told that would break them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from canaryproxy.http1.logline import _END, _FIRST, MAX_LINE, Entry, as_combined, as_json, trace_id

BROWSER = b"Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/128.0"
ENTRY = Entry(
    time=1_700_000_000.25,
    request_id=b"4bf92f35",
    trace_id=b"0af7651916cd43dd8448eb211c80319c",
    client_ip=b"203.0.113.7",
    peer=b"10.0.0.2",
    method=b"GET",
    target=b"/a?b=c",
    proto=b"HTTP/1.1",
    host=b"shop.example.com",
    status_from=b"upstream",
    route=b"shop",
    variant=b"canary",
    assignment=b"cookie",
    override=b"users",
    upstream=b"10.0.0.1:8000",
    termination=b"--",
    user_agent=BROWSER,
    referer=b"https://shop.example.com/",
    status=200,
    bytes_in=3,
    bytes_out=5321,
    t_total=0.0123456,
    t_queue=0.0,
    t_ttfb=1.5,
    attempts=1,
    reused=True,
)


def read(entry: Entry) -> dict[str, Any]:
    line = as_json(entry)
    assert line.endswith(b"}\n")
    found = json.loads(line)
    assert isinstance(found, dict)
    return found


def test_json_has_the_fields_in_their_order() -> None:
    expected = {name: value.decode() if isinstance(value, bytes) else value for name, value in ENTRY._asdict().items()}
    expected |= {"t_total": 0.012346, "error": None}
    found = read(ENTRY)
    assert found == expected
    assert tuple(found) == Entry._fields
    assert isinstance(found["reused"], bool)


def test_an_entry_is_one_time_then_texts_then_numbers() -> None:
    are_texts = [isinstance(value, bytes) for value in Entry()]
    assert are_texts == [_FIRST <= index < _END for index in range(len(are_texts))]


def test_json_of_what_was_refused_before_it_was_understood() -> None:
    found = read(Entry(time=1.0))
    numbers = {"time": 1.0, "bytes_in": 0, "bytes_out": 0, "attempts": 0, "reused": False}
    assert found == dict.fromkeys(Entry._fields) | numbers


def test_json_of_bytes_that_no_text_should_have() -> None:
    every_byte = bytes(range(256))
    line = as_json(ENTRY._replace(user_agent=every_byte))
    assert json.loads(line)["user_agent"].encode("latin-1") == every_byte
    assert rb'"user_agent":"\u0000\u0001' in line
    assert rb" !\"#" in line
    assert rb"[\\]" in line
    assert rb"~\u007f\u0080" in line


def test_combined() -> None:
    assert as_combined(ENTRY) == (
        b'203.0.113.7 - - [14/Nov/2023:22:13:20 +0000] "GET /a?b=c HTTP/1.1" 200 5321 "https://shop.example.com/" "%b"\n'
        % BROWSER
    )


def test_combined_of_nothing() -> None:
    assert as_combined(Entry()) == b'- - - [01/Jan/1970:00:00:00 +0000] "-" 499 0 "-" "-"\n'


def test_combined_escapes_as_nginx_does() -> None:
    assert as_combined(ENTRY._replace(client_ip=b"a b")).startswith(rb"a\x20b - - [")
    line = as_combined(ENTRY._replace(client_ip=b"a b", target=b'/"\\', user_agent=b"\r\n\x7f\xc3\xa9", referer=b'" "'))
    assert line == (
        rb'a\x20b - - [14/Nov/2023:22:13:20 +0000] "GET /\x22\x5C HTTP/1.1" 200 5321 "\x22 \x22" "\x0D\x0A\x7F\xC3\xA9"' + b"\n"
    )


def test_what_is_too_long_is_cut_where_it_is_longest() -> None:
    found = read(ENTRY._replace(target=b"/" + b"t" * 8000, user_agent=b"u" * 30_000, referer=b"r" * 100))
    assert found["referer"] == "r" * 100
    assert found["target"].endswith("ttt...")
    assert found["user_agent"].endswith("uuu...")
    assert found["host"] == "shop.example.com"


@pytest.mark.parametrize("format_line", [as_json, as_combined])
@pytest.mark.parametrize("byte", [b"x", b'"', b"\\", b"\n", b"\xff"])
def test_a_cut_line_is_full_and_no_escape_is_halved(format_line: Any, byte: bytes) -> None:
    for more in range(8):
        line = format_line(ENTRY._replace(user_agent=b"x" * more + byte * 5000))
        assert MAX_LINE - 6 < len(line) <= MAX_LINE
        if format_line is as_json:
            assert set(json.loads(line)["user_agent"].removesuffix("...")) <= set("x" + byte.decode("latin-1"))


def test_a_line_of_just_the_greatest_length_is_not_cut() -> None:
    room = MAX_LINE - len(as_json(ENTRY._replace(user_agent=b"")).replace(b'"user_agent":null', b'"user_agent":""'))
    assert read(ENTRY._replace(user_agent=b"u" * room))["user_agent"] == "u" * room
    assert read(ENTRY._replace(user_agent=b"u" * (room + 1)))["user_agent"] == "u" * (room - 3) + "..."


ID = b"0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    "value",
    [b"00-" + ID + b"-b7ad6b7169203331-01", b"01-" + ID + b"-b7ad6b7169203331-00", b"cc-" + ID + b"-b7ad6b7169203331-01-x"],
)
def test_trace_id(value: bytes) -> None:
    assert trace_id(value) == ID


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        ID,
        b"00-" + ID + b"-b7ad6b7169203331-01-x",  # version 00 has nothing more
        b"cc-" + ID + b"-b7ad6b7169203331-01x",
        b"ff-" + ID + b"-b7ad6b7169203331-01",
        b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01",
        b"00-" + ID + b"-0000000000000000-01",
        b"00-" + ID.upper() + b"-b7ad6b7169203331-01",
        b"00-" + ID + b"-b7ad6b7169203331-0",
        b"00-" + ID + b"-b7ad6b7169203331-01\n00-" + ID + b"-b7ad6b7169203331-01",  # came twice
    ],
)
def test_no_trace_id(value: bytes | None) -> None:
    assert trace_id(value) == b""
