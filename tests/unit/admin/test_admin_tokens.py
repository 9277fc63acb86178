"""Whose a token is; and how often an address may ask."""

from __future__ import annotations

from pathlib import Path

import pytest

from canaryproxy.admin.limits import RateLimiter
from canaryproxy.admin.tokens import Holder, load_tokens
from canaryproxy.config.check import problems
from canaryproxy.config.operators import Role
from canaryproxy.config.schema import Admin, Config
from canaryproxy.errors import StartError


def settings(folder: Path) -> Admin:
    tokens = {"ci": {"file": str(folder / "ci"), "role": "operate"}, "grafana": {"file": str(folder / "grafana")}}
    return Admin.model_validate({"token_file": str(folder / "token"), "tokens": tokens})


def test_missing_files_are_made_and_each_token_has_its_holder(tmp_path: Path) -> None:
    tokens = load_tokens(settings(tmp_path))
    for name, holder in (
        ("token", Holder("operator", Role.OPERATE)),
        ("ci", Holder("ci", Role.OPERATE)),
        ("grafana", Holder("grafana", Role.READ)),
    ):
        file = tmp_path / name
        assert file.stat().st_mode & 0o777 == 0o600
        assert tokens.holder(f"Bearer {file.read_text().strip()}") == holder
    for wrong in ("", "Bearer", "Bearer ", "Bearer x", f"Basic {(tmp_path / 'ci').read_text().strip()}", "Bearer \udcff"):
        assert tokens.holder(wrong) is None
    assert (tmp_path / "ci").read_text().strip() not in repr(vars(tokens))


def test_two_names_with_one_token_are_refused(tmp_path: Path) -> None:
    load_tokens(settings(tmp_path))
    (tmp_path / "grafana").write_text((tmp_path / "ci").read_text())
    with pytest.raises(StartError, match="grafana: is the token of ci; remove it"):
        load_tokens(settings(tmp_path))


def test_others_must_not_read_a_token(tmp_path: Path) -> None:
    load_tokens(settings(tmp_path))
    (tmp_path / "grafana").chmod(0o644)
    with pytest.raises(StartError, match="grafana: can be read by others"):
        load_tokens(settings(tmp_path))


def test_the_operators_name_is_taken() -> None:
    with pytest.raises(ValueError, match="'operator' is the name of who has"):
        Admin.model_validate({"tokens": {"operator": {"file": "x"}}})


def test_a_bucket_empties_and_fills() -> None:
    limiter = RateLimiter(60)
    assert [limiter.take("10.0.0.1", 5.0) for _ in range(60)] == [0.0] * 60
    assert limiter.take("10.0.0.1", 5.0) == pytest.approx(1.0)
    assert limiter.take("10.0.0.2", 5.0) == 0.0
    assert limiter.take("10.0.0.1", 5.75) == pytest.approx(0.25)
    assert limiter.take("10.0.0.1", 6.0) == 0.0
    assert RateLimiter(0).take("10.0.0.1", 5.0) == 0.0


def test_a_network_of_ipv6_is_one_client() -> None:
    limiter = RateLimiter(1)
    assert limiter.take("2001:db8:0:1::1", 5.0) == 0.0
    assert limiter.take("2001:db8:0:1:ffff::2", 5.0) > 0
    assert limiter.take("2001:db8:0:2::1", 5.0) == 0.0
    assert limiter.take("fe80::1%eth0", 5.0) == 0.0


def test_the_memory_for_addresses_is_bounded() -> None:
    limiter = RateLimiter(1)
    for number in range(10_000):
        limiter.take(f"10.0.{number >> 8}.{number & 255}", 5.0)
    assert len(limiter._buckets) == 4096
    assert limiter.take("10.0.39.15", 5.0) > 0
    assert limiter.take("10.0.0.0", 5.0) == 0.0


def test_a_token_file_is_nobody_elses() -> None:
    data = {
        "admin": {"token_file": "a", "tokens": {"ci": {"file": "./a"}}},
        "pools": {"v1": {"servers": ["http://a"]}},
        "routes": {"shop": {"stable": "v1"}},
    }
    found = [str(problem) for problem in problems(Config.model_validate(data))]
    assert found == ["admin.tokens.ci.file: is the same file as admin.token_file; use two files"]
