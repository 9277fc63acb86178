"""Pools and roles registered at run time laid over those of the file. Called by `control.recovery` and `control.pools`.

Pure but for the files that a configuration names (`config.files`). Who decides is the rule of `rollout.roles`: the file says
what there was when it was written, what was registered says what has happened since. While the file says of a pool, or of a
route's stable and canary, what it said when they were registered, the registered ones hold; once it says something else, the
file decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import ValidationError

from canaryproxy.config import check, files
from canaryproxy.config.explain import explain
from canaryproxy.config.schema import Config, Route
from canaryproxy.config.upstreams import Pool
from canaryproxy.errors import ConfigError, Problem

#: A pool as it is written in the file, or in JSON.
Definition = Mapping[str, Any]

_ROLES = ("stable", "canary")

#: A route's stable and canary pool.
Pair = tuple[str, str | None]


@dataclass(frozen=True, slots=True)
class Registered:
    """A pool that was registered at wall time `at`, and what the file said of it then (None: nothing).

    `deployed`: it came with a deploy, and is forgotten by a later one when no route uses it any more.
    """

    definition: Definition
    file: Definition | None
    at: float
    by: str
    deployed: bool = False


@dataclass(frozen=True, slots=True)
class Role:
    """A route's pools as the deploy `id` registered them at wall time `at`, and what the file said of them then.

    `target`: the pool that was deployed, where that is not `canary`: pools that stay what they are keep their places.
    """

    stable: str
    canary: str | None
    file: Pair
    id: str
    at: float
    by: str
    reason: str = ""
    target: str = ""

    @property
    def pair(self) -> Pair:
        """The two pools."""
        return self.stable, self.canary


class Laid(NamedTuple):
    """What is in force: the configuration, the file's and what was registered that it is made of; sentences about who decided."""

    config: Config
    file: Config
    registered: dict[str, Registered]
    sentences: tuple[str, ...] = ()
    roles: Mapping[str, Role] = {}


def lay(file: Config, registered: Mapping[str, Registered], roles: Mapping[str, Role] | None = None) -> Laid:
    """The file's configuration with the registered pools and roles; raises ConfigError if they do not fit each other."""
    roles = roles or {}
    held = {name: pool for name, pool in registered.items() if pool.file == definition_of(file.pools.get(name))}
    cast = {name: role for name, role in roles.items() if role.file == pair_of(file.routes.get(name))}
    try:
        config = with_pools(
            file,
            {name: pool.definition for name, pool in held.items()},
            {name: role.pair for name, role in cast.items()},
        )
    except ConfigError as error:
        hint = "change the file: it decides over a pool that it defines anew"
        raise ConfigError([Problem(p.where, f"as registered, {p.what}", p.hint or hint) for p in error.problems]) from None
    over = [f"pool {name}: is as it was registered, not as in the file" for name in held if name in file.pools]
    gone = [
        f"pool {name}: the file says something else than when another was registered: the file decides"
        for name in registered
        if name not in held
    ]
    return Laid(config, file, held, (*over, *gone, *_about_roles(file, roles, cast)), cast)


def _about_roles(file: Config, roles: Mapping[str, Role], held: Mapping[str, Role]) -> Iterator[str]:
    for name, role in roles.items():
        said = pair_of(file.routes.get(name))
        if name not in held:
            what = said and f"the file now says {_roles(said)}, it said {_roles(role.file)} at the last deploy: the file decides"
            yield f"route {name}: {what or 'is in the file no more'}"
        elif role.pair != said:
            yield f"route {name}: {_roles(role.pair)} as deployed, although the file says {_roles(role.file)}"


def _roles(pair: Pair) -> str:
    return f"stable {pair[0]} and {f'canary {pair[1]}' if pair[1] else 'no canary'}"


def with_pools(config: Config, definitions: Mapping[str, Definition], roles: Mapping[str, Pair] | None = None) -> Config:
    """The configuration with these pools put in or replaced, and these roles of its routes.

    Raises ConfigError with every problem, at its path in the file: those of single values, or, without any, those between them.
    """
    if not definitions and not roles:
        return config
    pools = read_pools(definitions)
    routes = {
        name: config.routes[name].model_copy(update=dict(zip(_ROLES, pair, strict=True))) for name, pair in (roles or {}).items()
    }
    changed = config.model_copy(update={"pools": {**config.pools, **pools}, "routes": {**config.routes, **routes}})
    if found := [*check.problems(changed), *files.problems(changed)]:
        raise ConfigError(found)
    return changed


def read_pools(definitions: Mapping[str, Definition]) -> dict[str, Pool]:
    """The pools that are defined so; raises ConfigError with everything that is wrong with single values."""
    if not definitions:
        return {}
    data = {"pools": definitions, "routes": {"any": {"stable": "any"}}}
    try:
        return Config.model_validate(data).pools
    except ValidationError as error:
        raise ConfigError(explain(error, data)) from None


def definition_of(pool: Pool | None) -> dict[str, Any] | None:
    """A pool as it was written: without what was left out, for a default that changes with a release is no change of the file."""
    return pool.model_dump(mode="json", exclude_unset=True) if pool else None


def pair_of(route: Route | None) -> Pair | None:
    """A route's stable and canary."""
    return (route.stable, route.canary) if route else None
