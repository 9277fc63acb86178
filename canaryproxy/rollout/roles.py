"""Who is stable and who is canary after a restart: the file or the record. Pure; called once for each route at start-up.

The file says which pools a route has and which roles they had when it was written; the record says what has happened since.
As long as the file says the same as it did, the record holds: a restart never silently goes back to the old version, nor on to
one that was rolled back. Once the file names other pools, the file wins and the route is idle. What a deploy registered was laid
over the file before (`config.overlay`), so a deploy is here like a file that names the next pool.
"""

from __future__ import annotations

from dataclasses import replace

from canaryproxy.config import schema
from canaryproxy.config.quantities import format_percent
from canaryproxy.rollout.model import Phase, Plan, Rollout


def reconcile(saved: Rollout | None, route_name: str, route: schema.Route) -> tuple[Rollout, str | None]:
    """The rollout to go on with, and a sentence for the log when there was something to decide."""
    plan, named = Plan.of_route(route), (route.stable, route.canary)
    fresh = Rollout(route_name, *named, *named, plan)
    if saved is None:
        return fresh, None
    if named not in ((saved.file_stable, saved.file_canary), (saved.stable, saved.canary)):
        return replace(fresh, salt=saved.salt, revision=saved.revision + 1, settled=saved.settled), (
            f"route {route_name}: {_roles(*named)} take the place of {_roles(saved.stable, saved.canary)}: "
            f"what was recorded ({saved.phase}) is over"
        )
    kept = replace(saved, file_stable=route.stable, file_canary=route.canary)
    if kept.phase is Phase.IDLE:
        return replace(kept, plan=plan), None
    if named != (kept.stable, kept.canary):
        recorded = f"{_roles(kept.stable, kept.canary)} as recorded ({kept.phase})"
        return kept, f"route {route_name}: {recorded}, although the file says {_roles(*named)}"
    if kept.in_progress:
        share = f"{format_percent(kept.weight_bp)} of users to {kept.canary}"
        return kept, f"route {route_name}: goes on {kept.phase} at step {kept.step + 1} of {len(kept.plan.steps)}, {share}"
    return kept, None


def _roles(stable: str, canary: str | None) -> str:
    return f"stable {stable} and {f'canary {canary}' if canary else 'no canary'}"
