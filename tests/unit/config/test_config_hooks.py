"""Hooks as they are written: types, names, what is refused, and that no message repeats a secret URL."""

from __future__ import annotations

from typing import Any

import pytest

from canaryproxy.config.hooks import GATES, MAX_HOOKS, Format, Hook, HookType, named
from canaryproxy.config.load import parse
from canaryproxy.config.schema import Config
from canaryproxy.errors import ConfigError
from canaryproxy.rollout.model import Gate

URL = "https://hooks.example.com/services/T0/B0/s3cret"


def config(hooks: str) -> Config:
    text = """
pools: {v1: {servers: [http://127.0.0.1:8001]}, v2: {servers: [http://127.0.0.1:8002]}}
routes:
  shop: {stable: v1, canary: v2, hooks: %s}
"""
    return parse(text % hooks, "file", {"TOKEN": "t0ken"})


def hook(**options: Any) -> Hook:
    return Hook.model_validate({"type": "event", "url": URL} | options)


def refusal(hooks: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config(hooks)
    return [str(problem) for problem in caught.value.problems]


def test_a_hook_is_read_with_its_defaults_and_the_environment() -> None:
    (made,) = config(f'[{{type: event, url: "{URL}", headers: {{Authorization: "Bearer ${{TOKEN}}"}}}}]').routes["shop"].hooks
    assert (made.timeout, made.retries, made.interval, made.format) == (10, 3, 5, Format.CLOUDEVENTS)
    assert made.headers == {"Authorization": "Bearer t0ken"}
    assert config("[]").routes["shop"].hooks == ()


def test_gates_have_the_names_that_the_rollout_has() -> None:
    assert [Gate(kind.value) for kind in GATES] == [gate for gate in Gate if gate is not Gate.PAUSE]


def test_names_are_the_types_with_numbers_where_none_are_given() -> None:
    hooks = [hook(), hook(name="qa"), hook(), hook(type="rollback")]
    assert dict(named(hooks)) == {"event": hooks[0], "qa": hooks[1], "event-3": hooks[2], "rollback": hooks[3]}


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("{type: sometimes, url: http://a/}", "hooks[0].type: 'sometimes' is not known here"),
        ("{type: event}", "hooks[0].url: is missing"),
        ("{type: event, url: ci.example.com/x}", "hooks[0].url: this is not a URL with http:// or https://"),
        ("{type: event, url: ftp://a/x}", "hooks[0].url: this is not a URL with http:// or https://"),
        ("{type: event, url: 'https:///x'}", "hooks[0].url: this URL has no valid host"),
        ("{type: event, url: 'https://a:99999/x'}", "hooks[0].url: this is not a URL"),
        ("{type: event, url: 'https://a/x#y'}", "hooks[0].url: this URL has what cannot be sent"),
        ("{type: event, url: 'https://a/x y'}", "hooks[0].url: this URL has what cannot be sent"),
        ("{type: event, url: https://a/, timeout: 0}", "hooks[0].timeout: '0' is too small"),
        ("{type: event, url: https://a/, retrys: 1}", "hooks[0].retrys: unknown key; did you mean retries?"),
        ("{type: event, url: https://a/, interval: 5s}", "hooks[0].interval: event hooks are not asked again"),
        ("{type: rollback, url: https://a/, format: slack}", "hooks[0].format: rollback hooks are asked in JSON"),
        ("{type: event, url: https://a/, headers: {Host: b}}", "hooks[0].headers.Host: is written by the proxy itself"),
        ('{type: event, url: https://a/, headers: {X-A: "b\\r\\nc"}}', "hooks[0].headers.X-A: this value has a character"),
        ("{type: event, url: https://a/, headers: {'X A': b}}", "hooks[0].headers"),
        ("{type: event, url: https://a/, name: a b}", "hooks[0].name: 'a b' is not a usable name"),
    ],
)
def test_what_is_wrong_is_said_at_its_place(written: str, words: str) -> None:
    (problem,) = refusal(f"[{written}]")
    assert f"routes.shop.{words}" in problem


def test_two_hooks_of_one_name_and_too_many_are_refused() -> None:
    (problem,) = refusal("[{type: event, url: http://a/, name: qa}, {type: rollback, url: http://a/, name: qa}]")
    assert "hooks[1].name: 'qa' is the name of hooks[0] too" in problem
    (problem,) = refusal(f"[{', '.join(['{type: event, url: http://a/}'] * (MAX_HOOKS + 1))}]")
    assert f"routes.shop.hooks: has {MAX_HOOKS + 1} hooks; keep at most {MAX_HOOKS}" in problem


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("https://anna:pass@[::1]:8443/services/s3cret?token=s3cret", "https://[::1]:8443"),
        (URL, "https://hooks.example.com"),
    ],
)
def test_people_never_see_what_may_be_the_secret_of_a_url(url: str, place: str) -> None:
    made = hook(url=url, headers={"Authorization": "s3cret"})
    assert made.place == place
    assert not {"s3cret", "pass"} & {word for word in ("s3cret", "pass") if word in repr(made)}
    for bad in (f"{url}#x", url.replace("https", "htps")):
        assert "s3cret" not in "".join(refusal(f'[{{type: event, url: "{bad}"}}]'))


def test_every_type_can_be_written() -> None:
    written = ", ".join(f"{{type: {kind}, url: http://127.0.0.1:9/}}" for kind in HookType)
    assert list(named(config(f"[{written}]").routes["shop"].hooks)) == [kind.value for kind in HookType]
