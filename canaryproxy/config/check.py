"""What is wrong with a configuration although each of its fields is right. Pure; called by `config.load` and `canaryproxy check`.

`problems` stop the start; `warnings` are said and the proxy runs. Places are paths into the file
(`routes.shop.rollout.steps[0].hold`); `config.load` adds the line. The rules of what is on the network are in
`config.check_network`. The limits of a rollout are there because one
that outruns its evidence is a sped-up blue-green.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import combinations, pairwise

from canaryproxy.config import check_network, check_outside, check_overrides, hooks
from canaryproxy.config.check_network import Finding, found, is_loopback, reported
from canaryproxy.config.explain import did_you_mean
from canaryproxy.config.metrics import OnBreach
from canaryproxy.config.names import parse_name
from canaryproxy.config.quantities import format_duration, format_percent
from canaryproxy.config.schema import Config, Rollout, Route, Step
from canaryproxy.errors import Problem

MIN_HOLD = 60  # seconds; below it a fault that needs a minute of traffic to show is not seen
MAX_FIRST_WEIGHT = 1_000  # basis points
MAX_JUMP = 10  # times the weight before
MAX_GOALS = 8  # of a route: so many words of a worker's ledger are theirs

_RISK = "set i_accept_the_risk: true"
_BLUE_GREEN = "that is a sped-up blue-green, not a canary"

#: Names of cookie attributes (RFC 6265 section 4.1.1, RFC 2109): parsers take them for attributes.
_COOKIE_ATTRIBUTES = frozenset({"path", "domain", "expires", "max-age", "secure", "httponly", "samesite", "version", "comment"})
#: RFC 6265bis section 4.1.3: refused by browsers unless Secure, which the proxy's cookie is where it is issued over TLS.
_COOKIE_PREFIXES = ("__secure-", "__host-")
#: Fields of the message or the connection, and our own: none of them says who the user is.
_NOT_A_USER = frozenset(
    {"accept", "connection", "content-length", "content-type", "cookie", "date", "expect", "host", "keep-alive", "te"}
    | {"proxy-connection", "set-cookie", "trailer", "transfer-encoding", "upgrade", "via", "x-canary-variant"}
)
_FORWARDED = frozenset({"forwarded", "x-forwarded-for", "x-real-ip"})


def problems(config: Config, unread: Collection[str] = ()) -> list[Problem]:
    """Everything that stops the start, not in file order.

    `unread` are places that could not be read and hold a default or a stand-in: what depends on them is not reported.
    """
    return reported((finding for rule in _RULES for finding in rule(config)), unread)


# --- routes ---


def _pools_of_routes(config: Config) -> Iterator[Finding]:
    for name, route in config.routes.items():
        for role, pool in (("stable", route.stable), ("canary", route.canary)):
            if pool is not None and pool not in config.pools:
                hint = f"{did_you_mean(pool, config.pools)}pools: {', '.join(config.pools)}"
                yield found(f"routes.{name}.{role}", f"no pool is named {pool!r}", hint, f"pools.{pool}")
        if route.canary == route.stable:
            hint = "name the pool of the new version, or leave canary out while there is none"
            yield found(f"routes.{name}.canary", f"is the same pool as stable ({route.stable!r})", hint, f"routes.{name}.stable")


def _matches(config: Config) -> Iterator[Finding]:
    for (first, a), (second, b) in combinations(config.routes.items(), 2):
        hosts = set(a.match.hosts or ("",)) & set(b.match.hosts or ("",))
        paths = set(a.match.paths) & set(b.match.paths)
        if hosts and paths:
            host = min(hosts) or "every host"
            what = f"takes the same requests as route {first!r} ({host}, path {min(paths)})"
            yield found(f"routes.{second}.match", what, "give one of the two another host or path", f"routes.{first}.match")


def _users(config: Config) -> Iterator[Finding]:
    for name, route in config.routes.items():
        place, cookie = f"routes.{name}.affinity", route.affinity.cookie.lower()
        if cookie in _COOKIE_ATTRIBUTES:
            hint = "use another name, for example canaryproxy_id"
            yield found(f"{place}.cookie", f"{route.affinity.cookie!r} is the name of a cookie attribute", hint)
        if config.listen is not None and cookie.startswith(_COOKIE_PREFIXES):
            prefix = cookie[: cookie.index("-") + 1]
            what = f"{route.affinity.cookie!r} is refused by browsers: {prefix} cookies must be Secure, and this one is not"
            yield found(f"{place}.cookie", what, "use a name without that prefix")
        if route.affinity.header is not None:
            yield from _user_header(config, f"{place}.header", route.affinity.header)


def _user_header(config: Config, place: str, header: str) -> Iterator[Finding]:
    if header.lower() in _NOT_A_USER:
        yield found(place, f"{header!r} does not say who the user is", "use a header with the user's id, for example X-User-Id")
    if header.lower() in _FORWARDED and not config.trusted_proxies:
        what = f"{header!r} can be made up by any client, and trusted_proxies is empty"
        yield found(place, what, "set trusted_proxies, or use another header", "trusted_proxies")
    if "_" in header and config.underscore_headers != "allow":
        what = f"{header!r} never arrives: underscore_headers is {config.underscore_headers}"
        yield found(place, what, f"use {header.replace('_', '-')}, or set underscore_headers: allow", "underscore_headers")


# --- rollouts ---


def _steps(config: Config) -> Iterator[Finding]:
    for name, route in config.routes.items():
        place, rollout = f"routes.{name}.rollout", route.rollout
        steps = _placed_steps(f"{place}.steps", rollout)
        yield from _pauses(f"{place}.steps", rollout)
        for (_, before), (where, step) in pairwise(steps):
            if step.weight <= before.weight:
                what = f"{format_percent(step.weight)} is not more than the {format_percent(before.weight)} of the step before"
                yield found(f"{where}.weight", what, "let the weights rise")
        longest = format_duration(rollout.max_step_duration)
        for where, step in steps:
            if step.hold > rollout.max_step_duration:
                what = f"{format_duration(step.hold)} is longer than max_step_duration ({longest}): the step ends as inconclusive"
                hint = "hold for less or raise max_step_duration"
                yield found(f"{where}.hold", what, hint, f"{place}.max_step_duration")
        yield from _limits(place, rollout, steps)
        if not rollout.i_accept_the_risk:
            for finding in _risks(steps):
                yield Finding(finding.problem, (f"{place}.i_accept_the_risk",))


def _placed_steps(place: str, rollout: Rollout) -> list[tuple[str, Step]]:
    """The steps that give a weight, each with its place in the file."""
    return [(f"{place}[{index}]", step) for index, step in enumerate(rollout.steps) if isinstance(step, Step)]


def _pauses(place: str, rollout: Rollout) -> Iterator[Finding]:
    for index, item in enumerate(rollout.steps):
        if isinstance(item, Step):
            continue
        if index == 0:
            what = "is a pause before anybody is on the canary"
            yield found(
                f"{place}[0]", what, "begin with a weight; to wait before the first step, use a hook of type confirm_rollout"
            )
        elif not isinstance(rollout.steps[index - 1], Step):
            yield found(f"{place}[{index}]", "is a pause right after another", "write one pause, as long as both")


def _limits(place: str, rollout: Rollout, steps: Sequence[tuple[str, Step]]) -> Iterator[Finding]:
    most = 10_000 - rollout.hold_back
    if steps and rollout.hold_back and steps[-1][1].weight > most:
        weight, held = format_percent(steps[-1][1].weight), format_percent(rollout.hold_back)
        what = f"{weight} is more than the bake has, which holds {held} of the users back"
        hint = f"end at {format_percent(most)} or below, or hold nobody back"
        yield found(f"{steps[-1][0]}.weight", what, hint, f"{place}.hold_back")
    least = sum(step.hold for _, step in steps) + rollout.bake
    least += sum(item.pause.duration for item in rollout.steps if not isinstance(item, Step))
    if 0 < rollout.max_duration <= least:
        what = (
            f"{format_duration(rollout.max_duration)} is not longer than the plan, which takes {format_duration(least)} at least"
        )
        hint = "raise it, hold for less, or write 0s for no limit"
        yield found(f"{place}.max_duration", what, hint, f"{place}.steps", f"{place}.bake")


def _risks(steps: Sequence[tuple[str, Step]]) -> Iterator[Finding]:
    for where, step in steps:
        if step.hold < MIN_HOLD:
            what = f"{format_duration(step.hold)} is too short to see harm before the next step: {_BLUE_GREEN}"
            yield found(f"{where}.hold", what, f"hold for at least {format_duration(MIN_HOLD)}, or {_RISK}")
    for where, step in steps[:1]:
        if step.weight > MAX_FIRST_WEIGHT:
            what = f"a first step of {format_percent(step.weight)} exposes too many users to an unknown version: {_BLUE_GREEN}"
            yield found(f"{where}.weight", what, f"begin with at most {format_percent(MAX_FIRST_WEIGHT)}, or {_RISK}")
    for (_, before), (where, step) in pairwise(steps):
        if step.weight > before.weight * MAX_JUMP:
            what = f"from {format_percent(before.weight)} to {format_percent(step.weight)} is {_JUMP}: {_BLUE_GREEN}"
            yield found(f"{where}.weight", what, f"put a step between, or {_RISK}")
    for where, step in steps[-1:]:
        if step.weight * MAX_JUMP < 10_000:
            what = f"the last step is {format_percent(step.weight)} and then comes 100%, {_JUMP}: {_BLUE_GREEN}"
            yield found(f"{where}.weight", what, f"add a step, or {_RISK}")


# --- goals ---


def _goals(config: Config) -> Iterator[Finding]:
    for name, route in config.routes.items():
        goals = route.metrics.goals
        if len(goals) > MAX_GOALS:
            what = f"has {len(goals)} goals ({', '.join(goals)})"
            yield found(f"routes.{name}.metrics", what, f"keep the {MAX_GOALS} that matter most")
        for goal in (*goals, *route.metrics.outside):
            try:
                parse_name(goal)
            except ValueError as error:
                what, _, hint = str(error).partition("; ")
                yield found(f"routes.{name}.metrics.{goal!r}", what, hint)


# --- hooks ---


def _hooks(config: Config) -> Iterator[Finding]:
    for name, route in config.routes.items():
        for place, what, hint in hooks.mistakes(route.hooks):
            yield found(f"routes.{name}.hooks{place}", what, hint)


_JUMP = f"a jump of more than {MAX_JUMP} times"
_RULES: tuple[Callable[[Config], Iterator[Finding]], ...] = (
    *check_network.RULES,
    *check_outside.RULES,
    _pools_of_routes,
    _matches,
    _users,
    _steps,
    _goals,
    _hooks,
    *check_overrides.RULES,
)


# --- warnings ---


def warnings(config: Config) -> list[Problem]:
    """What is allowed but would surprise; the proxy starts nevertheless."""
    surprises = [*_exposure(config), *_pools_in_doubt(config)]
    for rules in (check_network, check_outside, check_overrides):
        surprises += rules.warnings(config)
    for name, route in config.routes.items():
        surprises += _unguarded(f"routes.{name}", route)
    return surprises


def _exposure(config: Config) -> Iterator[Problem]:
    if not is_loopback(config.admin.listen.host):
        open_to = "anybody there can read status and metrics, and whoever has the token can change the traffic"
        what = f"{config.admin.listen} can be reached from other machines; {open_to}"
        yield Problem("admin.listen", what, "use 127.0.0.1, or let a firewall or a proxy with TLS stand before it")
    if config.host_header not in ("preserve", "upstream") and (
        near := did_you_mean(config.host_header, ("preserve", "upstream"))
    ):
        yield Problem("host_header", f"{config.host_header!r} is sent as the Host of every request", near.strip())


def _pools_in_doubt(config: Config) -> Iterator[Problem]:
    used = {pool for route in config.routes.values() for pool in (route.stable, route.canary)}
    for name in config.pools:
        if name not in used:
            yield Problem(f"pools.{name}", "is not used by any route", "name it in a route, or remove it")
    for name, route in config.routes.items():
        stable, canary = (
            {server._replace(weight=1) for server in config.pools[pool].servers} if pool in config.pools else set()
            for pool in (route.stable, route.canary)
        )
        for server in sorted(stable & canary):
            what = f"{server} is in both pools of the route: its requests count for both versions"
            yield Problem(f"routes.{name}.canary", what, "give each version its own servers")


def _unguarded(place: str, route: Route) -> Iterator[Problem]:
    metrics = (route.metrics.error_rate, route.metrics.latency_p95)
    if all(metric is None or metric.dry_run or metric.on_breach is OnBreach.WARN for metric in metrics):
        what = "neither errors nor slowness can stop or undo a bad rollout"
        yield Problem(f"{place}.metrics", what, "let one of the two roll back, without dry_run")
    for name in ("client_errors", "response_size"):
        metric = getattr(route.metrics, name)
        if metric is not None and metric.on_breach is OnBreach.ROLLBACK and not metric.dry_run:
            what = "is not looked at user by user: one client with odd requests can roll a healthy canary back"
            yield Problem(f"{place}.metrics.{name}", what, "let it pause")
    if route.rollout.bake < MIN_HOLD and not route.rollout.i_accept_the_risk:
        what = f"{format_duration(route.rollout.bake)} at 100% is too short to see harm before the canary becomes stable"
        yield Problem(f"{place}.rollout.bake", what, f"bake for at least {format_duration(MIN_HOLD)}")
