"""The four stories of the demo: what goes wrong in v2, how each story must end, and the schedule that all of them share.

Pure. The schedule is compressed so that a story takes seconds, yet every step is still proven by the same statistics as in
production, which need some hundred canary requests for each step.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """What v2 does wrong."""

    NONE = "none"
    ERRORS = "errors"
    SLOW = "slow"
    HANG = "hang"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One story: its fault and when it begins (seconds after v2's first request), the phase in which it must end, for people."""

    name: str
    fault: Fault
    fault_after: float
    ending: str
    sentence: str


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("errors", Fault.ERRORS, 4, "rolled_back", "v2 fails: after 4 s it answers 20 % of its requests with 500"),
        # The latency of a canary's first 20 s is not judged, its caches are cold: so this fault comes later.
        Scenario("slow", Fault.SLOW, 22, "rolled_back", "v2 gets slow: after 22 s every answer takes 200 ms longer"),
        Scenario("hang", Fault.HANG, 4, "rolled_back", "v2 hangs: after 4 s it leaves 25 % of its requests without an answer"),
        Scenario("healthy", Fault.NONE, 0, "promoted", "v2 is as good as v1"),
    )
}

#: Requests a second in total, and how many users they come from.
RATE = 600
USERS = 600
#: Seconds of stable traffic alone, so that the proxy knows what is normal.
BASELINE = 4.0
ERROR_SHARE = 0.20
HANG_SHARE = 0.25
SLOWER = 0.200
#: Seconds after which the proxy answers 504 for an upstream that does not.
ANSWER_LIMIT = 3.0
#: Seconds of traffic after the ending: long enough that the last unanswered request has ended too.
AFTERMATH = ANSWER_LIMIT + 1.0
#: Seconds that a story may take until its ending.
TIME_LIMIT = 120.0
#: Seconds over which rates are shown.
LATELY = 3.0
ROUTE = "shop"
WEIGHTS = (10, 25, 50)

_CONFIG = """\
# Made by `canaryproxy demo`. The schedule is sped up: a real rollout holds each step for minutes.
listen: 127.0.0.1:{port}
workers: 2
admin: {{listen: "127.0.0.1:0", token_file: {token}}}
state: {{path: {state}}}
timeouts: {{response_head: {limit:g}s, drain: 1s}}
pools:
  v1: {{servers: ["http://127.0.0.1:{stable}"]}}
  v2: {{servers: ["http://127.0.0.1:{canary}"]}}
routes:
  {route}:
    stable: v1
    canary: v2
    affinity: {{header: X-User-Id}}
    rollout:
      steps: [{steps}]
      bake: 4s
      max_step_duration: 100s
      i_accept_the_risk: true
"""


def config_text(folder: str, port: int, stable_port: int, canary_port: int) -> str:
    """The proxy's configuration file; state and token go into `folder`."""
    steps = ", ".join(f"{{weight: {weight}%, hold: 3s}}" for weight in WEIGHTS)
    paths = {name: json.dumps(f"{folder}/{name}") for name in ("token", "state")}  # a JSON string is a YAML string
    ports = {"port": port, "stable": stable_port, "canary": canary_port}
    return _CONFIG.format(limit=ANSWER_LIMIT, route=ROUTE, steps=steps, **paths, **ports)
