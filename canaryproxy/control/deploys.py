"""A new version for a route, without a file: which pool it is, whether there is anything to do, and what is registered for it.

Called by `admin.deploy`. The pool, the route's roles and the start that is pending are stored in one transaction and handed over
as `control.pools` does it; the controller that follows starts the rollout as soon as the canary's servers are there
(`control.controller`). Asked again for what is rolling out, or stable, it does nothing: jobs are tried again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from canaryproxy.config.names import parse_name
from canaryproxy.config.overlay import Definition, Registered, Role, pair_of, read_pools, with_pools
from canaryproxy.config.upstreams import Pool
from canaryproxy.control.handover import Outcome
from canaryproxy.control.pools import Pools, Wish
from canaryproxy.control.route import RouteControl
from canaryproxy.errors import ConfigError, IllegalTransitionError, Problem
from canaryproxy.store.base import Decision

#: What a deploy may name: a pool that exists, the servers of a new one, or a new one in its whole.
Wanted = str | Sequence[Any] | Mapping[str, Any]


class Deployed(NamedTuple):
    """What came of a deploy. `already`: `stable` or `rolling_out`, where there was nothing to do.

    `outcome`: of the hand-over, None where none was needed or none has ended yet.
    """

    already: str = ""
    outcome: Outcome | None = None


class _Target(NamedTuple):
    """The pool of the new version: its name, and how it is defined if it is not there yet."""

    name: str
    definition: Definition | None = None


class Deploys:
    """Deploys to the routes of one controller, one at a time."""

    def __init__(self, pools: Pools) -> None:
        self._pools, self._controller = pools, pools.controller

    async def deploy(self, route: RouteControl, wanted: Wanted, version: str, by: str, reason: str) -> Deployed:
        """Register the version and have its rollout started.

        Raises NotFoundError, ConfigError, IllegalTransitionError, BusyError or StoreError: nothing was changed; HandoverError:
        put back.
        """
        known = self._named(wanted, version) if _is_name(wanted) else None
        pool, short = (known, False) if known else self._read(route, wanted, version)
        if already := self._already(route, pool, version or pool.version, short=short):
            return Deployed(already)
        target = _Target(str(wanted)) if known else self._target(self._definition(route, wanted, version), version)
        self._pools.refuse_if_busy()
        sentence = f"deploy of {version or pool.version or target.name} asked for by {by}" + (f" ({reason})" if reason else "")
        role = self._role(route, target, by, reason)
        data = {"deploy": role.id, "pool": target.name, "definition": target.definition}
        asked = Decision(role.at, "deploy", sentence, data | {"state": "asked", "servers": [str(s) for s in pool.servers]})
        if target.name == route.rollout.canary:  # no new workers are needed
            await self._pools.save_roles({**self._pools.roles, route.name: role}, {route.name: asked}, route)
            if (probe := self._controller.probes.get(route.name)) is not None:
                await asyncio.wait((probe,), timeout=self._pools.limit)
            return Deployed()
        undone = f"deploy of {version or pool.version or target.name} could not be handed over and was undone"
        refused = Decision(role.at, "deploy", undone, data | {"state": "undone"})
        wish = self._wish(route, target, role)._replace(
            decisions={route.name: asked}, undone={route.name: refused}, deploying=route
        )
        return Deployed(outcome=await self._pools.change(wish, f"route {route.name}"))

    # Which pool is meant.

    def _named(self, name: Any, version: str) -> Pool:
        pool = self._pools.pool(name)
        if version and version != (pool.version or name):
            what = f"runs version {pool.version or name}, not {version}"
            raise IllegalTransitionError(f"pool {name}", what, "leave the version out, or give the servers of the new version")
        return pool if pool.version else pool.model_copy(update={"version": name})

    def _read(self, route: RouteControl, wanted: Wanted, version: str) -> tuple[Pool, bool]:
        """The pool, and whether only its servers were given. Raises ConfigError."""
        definition = self._definition(route, wanted, version)
        name = _usable(version) or "canary"
        return read_pools({name: definition})[name], not isinstance(wanted, Mapping)

    def _definition(self, route: RouteControl, wanted: Wanted, version: str) -> dict[str, Any]:
        """The new pool in its whole: servers alone are the next version of what is stable, with all its settings."""
        if isinstance(wanted, Mapping):
            definition = dict(wanted)
            if version and definition.setdefault("version", version) != version:
                what = f"{definition['version']!r} is not the version that is deployed, {version!r}"
                raise ConfigError([Problem("canary.version", what, "give it once")])
            return definition
        servers = [wanted] if isinstance(wanted, str) else list(wanted)
        definition = dict(self._pools.definition(route.rollout.stable) or {}) | {"servers": servers}
        definition.pop("version", None)
        if not any("https://" in str(server) for server in servers):
            definition.pop("tls", None)
        return definition | ({"version": version} if version else {})

    def _already(self, route: RouteControl, pool: Pool, version: str, *, short: bool) -> str:
        """`stable` or `rolling_out` if that is so; raises IllegalTransitionError for another pool under stable's version."""
        rollout, deployment = route.rollout, route.deployment
        coming = self._pools.coming if deployment.is_handing_over else None
        config = coming or self._controller.config
        canary = deployment.role.canary if deployment.role and deployment.is_handing_over else rollout.canary
        active = rollout.in_progress or deployment.is_handing_over or deployment.pending
        if _is_same(pool, config.pools.get(rollout.stable), version, rollout.stable, short=short):
            return "stable"
        if version and version == (config.pools[rollout.stable].version or rollout.stable):
            what = f"version {version} is stable now (pool {rollout.stable}), and its users stay on it"
            hint = f"give the new version a name of its own; PUT /api/v1/pools/{rollout.stable} moves the servers of the old one"
            raise IllegalTransitionError(f"route {route.name}", what, hint)
        if canary and active and _is_same(pool, config.pools.get(canary), version, canary, short=short):
            return "rolling_out"
        return ""

    def _target(self, definition: dict[str, Any], version: str) -> _Target:
        """Where the new pool stands: under its version, or with a hash of the definition where that name is another's."""
        pools, mark = self._controller.config.pools, hashlib.sha256(_text(definition)).hexdigest()[:8]
        label = version or str(definition.get("version", ""))
        first = _usable(label) or f"canary-{mark}"
        for name in (first, f"{first[:54]}-{mark}"):
            plain = {key: value for key, value in definition.items() if key != "version" or value != name}
            if name not in pools:
                return _Target(name, plain)
            if _is_same(read_pools({name: plain})[name], pools[name], label or name, name, short=False):
                return _Target(name)
        raise IllegalTransitionError(f"pool {first}", "exists, and is another one", "give the new version another name")

    # What is registered.

    def _role(self, route: RouteControl, target: _Target, by: str, reason: str) -> Role:
        """The route's new role; where its pools stay what they are, these in the places that they have."""
        present, file = self._controller.config.routes[route.name], self._pools.pair_in_file(route.name)
        assert file is not None
        pair = (present.stable, present.canary) if target.name == route.rollout.canary else (route.rollout.stable, target.name)
        return Role(*pair, file, secrets.token_hex(8), self._controller.clock.wall(), by, reason, target.name)

    def _wish(self, route: RouteControl, target: _Target, role: Role) -> Wish:
        """Everything that is registered with the new role; deployed pools that nothing uses any more are left out."""
        pools, controller = self._pools, self._controller
        used = {*role.pair}
        for name, control in controller.routes.items():
            used |= {control.rollout.stable, control.rollout.canary, *(pair_of(controller.config.routes.get(name)) or ())}
        gone = {name for name, pool in pools.registered.items() if pool.deployed and pool.file is None and name not in used}
        registered = {name: pool for name, pool in pools.registered.items() if name not in gone}
        left = {name: pool for name, pool in controller.config.pools.items() if name not in gone}
        if target.definition is not None:
            registered[target.name] = Registered(target.definition, None, role.at, role.by, deployed=True)
        definitions = {} if target.definition is None else {target.name: target.definition}
        config = with_pools(controller.config.model_copy(update={"pools": left}), definitions, {route.name: role.pair})
        return Wish(registered, {**pools.roles, route.name: role}, config, {}, {})


def _is_name(wanted: Wanted) -> bool:
    return isinstance(wanted, str) and "://" not in wanted and not wanted.startswith("unix:")


def _is_same(pool: Pool, present: Pool | None, version: str, name: str, *, short: bool) -> bool:
    """Whether `present`, the pool `name`, is this version on these servers; its other settings too, unless they were left out."""
    if present is None or (version and version != (present.version or name)) or set(pool.servers) != set(present.servers):
        return False
    rest = {"servers", "version"}
    return short or pool.model_dump(exclude=rest) == present.model_dump(exclude=rest)


def _usable(version: str) -> str:
    """The version where it can be a pool's name, else nothing."""
    try:
        return str(parse_name(version))
    except ValueError:
        return ""


def _text(definition: Definition) -> bytes:
    return json.dumps(definition, sort_keys=True, default=str).encode()
