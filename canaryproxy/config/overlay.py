"""Pools registered at run time laid over those of the file. Called by `control.recovery`, and by `control.pools` for one pool.

Pure but for the files that a configuration names (`config.files`). Who decides is the rule of `rollout.roles`: the file says
which pools there were when it was written, what was registered says what has happened since. While the file says of a pool what
it said when the pool was registered, the registered one holds; once it says something else, the file decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import ValidationError

from canaryproxy.config import check, files
from canaryproxy.config.explain import explain
from canaryproxy.config.schema import Config
from canaryproxy.config.upstreams import Pool
from canaryproxy.errors import ConfigError, Problem

#: A pool as it is written in the file, or in JSON.
Definition = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Registered:
    """A pool that was registered at wall time `at`, and what the file said of it then (None: nothing)."""

    definition: Definition
    file: Definition | None
    at: float
    by: str


class Laid(NamedTuple):
    """What is in force: the configuration, the file's and what was registered that it is made of; sentences about who decided."""

    config: Config
    file: Config
    registered: dict[str, Registered]
    sentences: tuple[str, ...] = ()


def lay(file: Config, registered: Mapping[str, Registered]) -> Laid:
    """The file's configuration with the registered pools; raises ConfigError if the two do not fit each other."""
    held = {name: pool for name, pool in registered.items() if pool.file == definition_of(file.pools.get(name))}
    try:
        config = with_pools(file, {name: pool.definition for name, pool in held.items()})
    except ConfigError as error:
        hint = "change the file: it decides over a pool that it defines anew"
        raise ConfigError([Problem(p.where, f"as registered, {p.what}", p.hint or hint) for p in error.problems]) from None
    over = [f"pool {name}: is as it was registered, not as in the file" for name in held if name in file.pools]
    gone = [
        f"pool {name}: the file says something else than when another was registered: the file decides"
        for name in registered
        if name not in held
    ]
    return Laid(config, file, held, (*over, *gone))


def with_pools(config: Config, definitions: Mapping[str, Definition]) -> Config:
    """The configuration with these pools put in or replaced.

    Raises ConfigError with every problem, at its path in the file: those of single values, or, without any, those between them.
    """
    if not definitions:
        return config
    data = {"pools": definitions, "routes": {"any": {"stable": "any"}}}
    try:
        pools = Config.model_validate(data).pools
    except ValidationError as error:
        raise ConfigError(explain(error, data)) from None
    changed = config.model_copy(update={"pools": {**config.pools, **pools}})
    if found := [*check.problems(changed), *files.problems(changed)]:
        raise ConfigError(found)
    return changed


def definition_of(pool: Pool | None) -> dict[str, Any] | None:
    """A pool as it was written: without what was left out, for a default that changes with a release is no change of the file."""
    return pool.model_dump(mode="json", exclude_unset=True) if pool else None
