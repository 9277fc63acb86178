"""The configuration of the drill's own proxy: the plan and rules of the user's route, on two made-up apps. Pure.

Only what a rollback depends on is taken over. Pools, addresses, state, hooks, goals and outside metrics are not: the drill
touches nothing that is the user's.
"""

from __future__ import annotations

import json
from typing import Any

from canaryproxy.cli.demo.scenario import ANSWER_LIMIT
from canaryproxy.config.metrics import Metrics
from canaryproxy.config.quantities import format_percent
from canaryproxy.config.schema import Route

ROUTE = "drill"
#: Requests a second in total, and how many users they come from: enough that a first step of 1 % has some.
RATE, USERS = 500, 2_500
#: Basis points that the first step has at least, so that it has users at all.
_LEAST = 100
#: No step is over before its rollback was rehearsed.
_HOLD = "10m"


def first_weight(route: Route) -> int:
    """Basis points of the users that the drill's canary has."""
    return max(route.rollout.rungs[0].weight, _LEAST)


def config_text(route: Route, folder: str, stable_port: int, canary_port: int) -> str:
    """The configuration file (JSON is YAML); state and token go into `folder`."""
    first = first_weight(route)
    rest = [step.weight for step in route.rollout.rungs[1:] if step.weight > first]
    steps = [{"weight": format_percent(weight), "hold": _HOLD} for weight in (first, *rest)]
    plan = route.rollout.model_dump(mode="json", include={"confidence", "min_requests"})
    rules = route.metrics.model_dump(mode="json", include=set(Metrics.model_fields), exclude_none=True)
    rules |= {name: False for name in Metrics.model_fields if getattr(route.metrics, name) is None}
    config: dict[str, Any] = {
        "listen": "127.0.0.1:0",
        "workers": 2,
        "admin": {"listen": "127.0.0.1:0", "token_file": f"{folder}/token"},
        "state": {"path": f"{folder}/state.db"},
        "timeouts": {"response_head": f"{ANSWER_LIMIT:g}s", "drain": "1s"},
        "pools": {
            "v1": {"servers": [f"http://127.0.0.1:{stable_port}"]},
            "v2": {"servers": [f"http://127.0.0.1:{canary_port}"]},
        },
        "routes": {
            ROUTE: {
                "stable": "v1",
                "canary": "v2",
                "affinity": {"header": "X-User-Id"},
                "rollout": {**plan, "steps": steps, "bake": _HOLD, "i_accept_the_risk": True},
                "metrics": rules,
            }
        },
    }
    return json.dumps(config, indent=2)
