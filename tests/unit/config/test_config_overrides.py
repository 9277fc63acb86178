"""The rules of who may be put on a version by hand, and the list of beta users."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from canaryproxy.config import users
from canaryproxy.config.check import warnings
from canaryproxy.config.load import parse
from canaryproxy.config.schema import Config
from canaryproxy.config.users import LONGEST_LINE, parse_users, read_users
from canaryproxy.errors import ConfigError

_DOCUMENT = Path(__file__).parents[3] / "docs" / "overrides.md"
SECRET = "s3cret-s3cret-s3cret"


def text(overrides: dict[str, Any], **more: Any) -> str:
    pools = {name: {"servers": [f"http://127.0.0.1:{port}"]} for name, port in (("v1", 1), ("v2", 2))}
    shop = {"stable": "v1", "canary": "v2", "affinity": {"header": "X-User-Id"}, "overrides": overrides}
    return yaml.safe_dump({"pools": pools, "routes": {"shop": shop}, **more})


def complaints(overrides: dict[str, Any], **more: Any) -> list[tuple[str, str]]:
    """The place below the overrides, and what is wrong there."""
    with pytest.raises(ConfigError) as caught:
        parse(text(overrides, **more), "f", {})
    return [(p.where.partition("routes.shop.overrides.")[2], p.what) for p in caught.value.problems]


def only(overrides: dict[str, Any], **more: Any) -> tuple[str, str]:
    (problem,) = complaints(overrides, **more)
    return problem


def matching(**condition: str) -> dict[str, Any]:
    return {"match": [{"header": {"name": "X-Thing", **condition}}]}


@pytest.mark.parametrize("kind", ["header", "cookie"])
def test_without_secret_and_networks_anybody_could_choose(kind: str) -> None:
    place, what = only({kind: {"name": "tester"}})
    assert (place, what) == (
        kind,
        "tester has no secret and there are no trusted networks: anybody could choose the version",
    )
    for more in ({"trusted": ["10.0.0.0/8"]}, {kind: {"name": "tester", "secret": SECRET}}):
        assert parse(text({kind: {"name": "tester"}, **more}), "f", {})


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0"])
def test_everybody_is_no_trusted_network(network: str) -> None:
    assert only({"header": {}, "trusted": ["10.0.0.0/8", network]}) == ("trusted[1]", f"{network} is everybody")


@pytest.mark.parametrize(
    ("secret", "what"),
    [
        ("hunter2", "has 7 characters, which can be guessed"),
        ("s3cret s3cret s3cret", "has a character that a cookie cannot have"),
        ("s3cret;s3cret;s3cret", "has a character that a cookie cannot have"),
        ("gehëim-gehëim-gehëim", "has a character that a cookie cannot have"),
        ("", "is empty"),
    ],
)
def test_a_bad_secret_is_refused_and_never_repeated(secret: str, what: str) -> None:
    place, said = only({"header": {"secret": secret}})
    assert (place, said) == ("header.secret", what)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("Cookie", "'Cookie' has a meaning of its own"),
        ("X-Forwarded-Foo", "'X-Forwarded-Foo' has a meaning of its own"),
        ("x-user-id", "'x-user-id' is the header that says who the user is"),
        ("X_Canary", "'X_Canary' never arrives: underscore_headers is drop"),
    ],
)
def test_a_header_that_is_for_something_else_is_refused(name: str, what: str) -> None:
    assert only({"header": {"name": name, "secret": SECRET}}) == ("header.name", what)


def test_the_cookie_of_the_user_is_not_the_override_s() -> None:
    place, what = only({"cookie": {"name": "canaryproxy_id", "secret": SECRET}})
    assert (place, what) == ("cookie.name", "'canaryproxy_id' is the cookie that says who the user is")


@pytest.mark.parametrize(
    ("rule", "place", "what"),
    [
        ({}, "match[0]", "has neither a header nor a cookie"),
        (
            {"header": {"name": "a", "equals": "1"}, "cookie": {"name": "a", "equals": "1"}},
            "match[0]",
            "has a header and a cookie",
        ),
        ({"header": {"name": "a"}}, "match[0].header", "does not say what a must be"),
        ({"cookie": {"name": "a", "prefix": "1", "regex": "2"}}, "match[0].cookie", "has prefix and regex"),
        ({"header": {"name": "a b", "equals": "1"}}, "match[0].header.name", "'a b' is not a name that HTTP allows"),
    ],
)
def test_a_match_is_one_condition(rule: dict[str, Any], place: str, what: str) -> None:
    assert only({"match": [rule]}) == (place, what)


@pytest.mark.parametrize(
    ("regex", "what"),
    [
        ("(a+)+b", "repeats a group"),
        ("(a|a)*", "repeats a group"),
        ("(?:ab){2,}", "repeats a group"),
        ("([)])*", "repeats a group"),
        (".*a.*b.*", "has more than 2 repeats"),
        (r"\w+@\w+\.\w{2,}", "has more than 2 repeats"),
        ("(", "is no regular expression"),
        ("a{99999999999999999999}", "is no regular expression"),
    ],
)
def test_a_regular_expression_that_may_take_long_is_refused(regex: str, what: str) -> None:
    place, said = only(matching(regex=regex))
    assert place == "match[0].header.regex"
    assert what in said


@pytest.mark.parametrize("regex", [r".*\(a\)+", "[)*+{]+x.*", "(?:a|b)?c+", r"\*\*\*\*", "a*+b++", "x" * 200])
def test_others_are_accepted(regex: str) -> None:
    assert parse(text(matching(regex=regex)), "f", {})


def test_every_request_is_compared_with_few_rules_only() -> None:
    rules = [{"header": {"name": "a", "equals": str(n)}} for n in range(33)]
    assert only({"match": rules})[0] == "match"
    assert parse(text({"match": rules[:32]}), "f", {})


def test_networks_for_nothing_are_a_surprise() -> None:
    (warning,) = warnings(parse(text({"trusted": ["10.0.0.0/8"]}), "f", {}))
    assert (warning.where, warning.what) == (
        "routes.shop.overrides.trusted",
        "says whose header or cookie counts, and there is neither",
    )


def test_none_are_configured_by_default_and_false_turns_one_off() -> None:
    config = parse(text({"header": False, "cookie": "off"}), "f", {})
    assert config.routes["shop"].overrides == Config.model_validate(yaml.safe_load(text({}))).routes["shop"].overrides


def test_what_the_documentation_shows_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("beta-users.txt").write_text("anna\n")
    shown = re.findall(r"```yaml\n(.*?)```", _DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    pools = yaml.safe_dump({"pools": {"v1": {"servers": ["http://127.0.0.1:1"]}, "v2": {"servers": ["http://127.0.0.1:2"]}}})
    config = parse(pools + shown[0] + shown[1], "f", {"CANARY_SECRET": SECRET})
    overrides = config.routes["shop"].overrides
    assert overrides.header is not None
    assert len(overrides.match) == 2
    assert warnings(config) == []


# The list of users.


def test_a_key_a_line_with_remarks_and_empty_lines(tmp_path: Path) -> None:
    file = tmp_path / "beta.txt"
    file.write_bytes(b"\xef\xbb\xbfanna\r\n# the team\n\n  ben  \n#clara\nd\xc3\xb6ra\ne#f\nanna b")
    assert list(read_users(str(file))) == [b"anna", b"ben", b"d\xc3\xb6ra", b"e#f", b"anna b"]
    file.write_bytes(b"")
    assert list(read_users(str(file))) == []


def test_lines_up_to_the_longest_are_read(tmp_path: Path) -> None:
    file = tmp_path / "beta.txt"
    longest = b"k" * LONGEST_LINE
    file.write_bytes(b"anna\n" + longest + b"\r\nben\n")
    assert list(read_users(str(file))) == [b"anna", longest, b"ben"]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"anna\nben\0\n", "line 2: has a control character"),
        ("anna\n".encode("utf-16"), "line 1: has a control character"),
        (b"anna\n\n" + b"k" * (LONGEST_LINE + 1), "line 3: is longer than 1024 bytes"),
        (b"#" * 9000 + b"\nanna\n", "line 1: is longer than 1024 bytes"),
        (b"an\tna", "line 1: has a control character"),
    ],
)
def test_what_is_no_list_of_users_is_refused_with_its_line(tmp_path: Path, content: bytes, what: str) -> None:
    file = tmp_path / "beta.txt"
    file.write_bytes(content)
    assert only({"users_file": str(file)}) == ("users_file", f"{str(file)!r}: {what}")


def test_a_list_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "MOST_LINES", 3)
    assert list(parse_users([b"a", b"#", b"c"])) == [b"a", b"c"]
    with pytest.raises(ValueError, match="line 4: there are more than 3 lines; keep"):
        list(parse_users([b"a", b"#", b"c", b"d"]))


def test_a_list_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    missing = tmp_path / "beta.txt"
    assert only({"users_file": str(missing)}) == ("users_file", f"{str(missing)!r} cannot be read (No such file or directory)")
    assert only({"users_file": "/dev/null"}) == ("users_file", "'/dev/null': is not a file")
    assert only({"users_file": "a\0b"})[0] == "users_file"
