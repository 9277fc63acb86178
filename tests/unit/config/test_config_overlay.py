"""Who decides about a pool, the file or what was registered; and what a registered pool may be."""

from __future__ import annotations

from typing import Any

import pytest

from canaryproxy.config.load import parse
from canaryproxy.config.overlay import Registered, Role, definition_of, lay, with_pools
from canaryproxy.config.schema import Config, Route
from canaryproxy.errors import ConfigError

A, B, C = ("http://10.0.0.1:80", "http://10.0.0.2:80", "http://10.0.0.3:80")


def file(pools: dict[str, Any], **top: Any) -> Config:
    return Config.model_validate({"pools": pools, "routes": {"shop": {"stable": "v1"}}, **top})


def registered(server: str, over: dict[str, Any] | None) -> Registered:
    return Registered({"servers": [server]}, over, 1.0, "anna")


def servers(config: Config) -> dict[str, list[str]]:
    return {name: [str(server) for server in pool.servers] for name, pool in config.pools.items()}


def test_a_registered_pool_replaces_the_files_and_another_is_added() -> None:
    rows = {"v1": registered(B, {"servers": [A]}), "v3": registered(C, None)}
    laid = lay(file({"v1": {"servers": [A]}, "v2": {"servers": [C]}}), rows)
    assert servers(laid.config) == {"v1": [B], "v2": [C], "v3": [C]}
    assert servers(laid.file) == {"v1": [A], "v2": [C]}
    assert laid.registered == rows
    assert laid.sentences == ("pool v1: is as it was registered, not as in the file",)


@pytest.mark.parametrize(
    "now",
    [{"v1": {"servers": [C]}}, {"v1": {"servers": [A], "version": "2"}}, {"v1": {"servers": [A, A]}}],
)
def test_a_file_that_says_something_else_decides(now: dict[str, Any]) -> None:
    laid = lay(file(now), {"v1": registered(B, {"servers": [A]})})
    assert laid.config == laid.file == file(now)
    assert laid.registered == {}
    assert laid.sentences == ("pool v1: the file says something else than when another was registered: the file decides",)


def test_a_file_that_now_has_the_pool_or_has_it_no_more_decides() -> None:
    rows = {"v3": registered(B, None), "v4": registered(B, {"servers": [A]})}
    laid = lay(file({"v1": {"servers": [A]}, "v3": {"servers": [A]}}), rows)
    assert servers(laid.config) == {"v1": [A], "v3": [A]}
    assert laid.registered == {}


def test_the_same_said_in_other_words_is_no_change_of_the_file() -> None:
    text = "pools: {v1: {servers: [%s], %s}}\nroutes: {shop: {stable: v1}}"
    first, second = (parse(text % (A, f"slow_start: {time}"), "x.yaml", {}) for time in ("90s", "1m30s"))
    known = definition_of(first.pools["v1"])
    assert known == {"servers": [A], "slow_start": "1m30s"}
    assert set(lay(second, {"v1": registered(B, known)}).registered) == {"v1"}


def test_what_does_not_fit_the_file_is_an_error_that_says_what_to_do() -> None:
    rows = {"v1": registered("http://127.0.0.1:9900", {"servers": [A]})}
    with pytest.raises(ConfigError, match=r"pools.v1.servers\[0\]: as registered, .* is this proxy's admin endpoint") as caught:
        lay(file({"v1": {"servers": [A]}}), rows)
    assert caught.value.problem.hint
    old = {"v1": Registered({"servers": [B], "gone_since": 1}, {"servers": [A]}, 1.0, "anna")}
    with pytest.raises(ConfigError, match=r"pools.v1.gone_since: as registered, unknown key"):
        lay(file({"v1": {"servers": [A]}}), old)


def test_every_problem_of_a_pool_is_said_with_its_path() -> None:
    with pytest.raises(ConfigError) as caught:
        with_pools(file({"v1": {"servers": [A]}}), {"v2": {"servers": ["10.0.0.1", "ftp://x"], "vresion": "1"}})
    assert [problem.where for problem in caught.value.problems] == [
        "pools.v2.servers[0]",
        "pools.v2.servers[1]",
        "pools.v2.vresion",
    ]
    assert caught.value.problems[2].hint.startswith("did you mean version?")
    with pytest.raises(ConfigError, match="'a b' is not a usable name"):
        with_pools(file({"v1": {"servers": [A]}}), {"a b": {"servers": [A]}})


def test_the_rest_of_the_configuration_stays_as_it_is() -> None:
    before = file({"v1": {"servers": [A]}}, via="x", workers=3, timeouts={"drain": "1m"}, trusted_proxies=["10.0.0.0/8"])
    after = with_pools(before, {"v2": {"servers": [B]}})
    assert after.model_copy(update={"pools": before.pools}) == before
    assert with_pools(before, {}) is before


def role(stable: str, canary: str, over: tuple[str, str | None] = ("v1", None)) -> Role:
    return Role(stable, canary, over, "1f", 1.0, "anna")


def test_roles_hold_while_the_file_says_of_the_route_what_it_said() -> None:
    before = file({"v1": {"servers": [A]}})
    rows, roles = {"v2": registered(B, None), "v3": registered(C, None)}, {"shop": role("v2", "v3")}
    laid = lay(before, rows, roles)
    assert (laid.config.routes["shop"].stable, laid.config.routes["shop"].canary, laid.roles) == ("v2", "v3", roles)
    assert laid.file.routes["shop"].canary is None
    assert laid.sentences == ("route shop: stable v2 and canary v3 as deployed, although the file says stable v1 and no canary",)
    plan = before.model_copy(update={"routes": {"shop": Route.model_validate({"stable": "v1", "rollout": {"bake": "1h"}})}})
    assert lay(plan, rows, roles).roles == roles, "only the roles are compared"


def test_a_file_that_gives_the_route_other_pools_decides() -> None:
    now = Config.model_validate({"pools": {"v5": {"servers": [A]}}, "routes": {"shop": {"stable": "v5"}}})
    laid = lay(now, {"v2": registered(B, None)}, {"shop": role("v1", "v2"), "gone": role("v1", "v2")})
    assert (laid.config.routes, laid.roles) == (now.routes, {})
    assert laid.sentences == (
        "route shop: the file now says stable v5 and no canary, it said stable v1 and no canary at the last deploy: "
        "the file decides",
        "route gone: is in the file no more",
    )


def test_a_pool_that_a_deploy_needs_and_nobody_defines_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"routes.shop.stable: as registered, no pool is named 'v2'"):
        lay(file({"v1": {"servers": [A]}}), {"v3": registered(C, None)}, {"shop": role("v2", "v3")})
