"""What goes wrong in each scenario, how it should end, and the schedule and the world that all of them share. Pure.

The world is that of the simulations (20,000 users whose rates are lognormal with sigma 1.5; answers with a median of 80 ms and a
p95 of 200 ms), so that both can be compared; the first step is 2 % of 800 requests/s, a canary of about 16 requests/s.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """What an origin does wrong; KILLED and NONE are nothing that it does."""

    NONE = "none"
    ERRORS = "errors"
    SLOW = "slow"
    HANG = "hang"
    EMPTY = "empty"
    BOT = "bot"
    KILLED = "killed"


#: Ways for a run to end: the first decision to roll back or pause, else whether the canary was promoted.
ROLLED_BACK, PAUSED, PROMOTED, NEITHER = "rolled_back", "paused", "promoted", "neither"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One fault: its share of the requests, how long it lasts, whether stable has it too, and the endings that are right."""

    name: str
    sentence: str
    fault: Fault
    share: float = 1.0
    seconds: float = float("inf")
    both: bool = False
    endings: tuple[str, ...] = (ROLLED_BACK,)

    @property
    def harmful(self) -> bool:
        """Whether the canary must not be promoted."""
        return PROMOTED not in self.endings

    @property
    def holds(self) -> tuple[float, ...]:
        """Seconds of each step. A harmful fault is judged on the first one, where a canary has the fewest requests."""
        return (90.0, 30.0, 30.0) if self.harmful else (30.0, 20.0, 20.0)

    @property
    def limit(self) -> float:
        """Seconds from the start of the rollout, after which its run is over whatever has been decided."""
        return HEALTHY_FOR + 60.0 if self.harmful else 330.0

    @property
    def usual_seconds(self) -> float:
        """About how long a run takes, for the progress bar."""
        return BASELINE + (HEALTHY_FOR + 15.0 if self.harmful else sum(self.holds) + BAKE + 15.0)


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("errors_5", "5 % of the canary's answers are 500", Fault.ERRORS, 0.05),
        Scenario("errors_50", "50 % of the canary's answers are 500", Fault.ERRORS, 0.50),
        Scenario("slow", "every answer of the canary takes 200 ms longer", Fault.SLOW),
        Scenario("hang_20", "20 % of the canary's requests get no answer", Fault.HANG, 0.20),
        Scenario("hang_100", "no request of the canary gets an answer", Fault.HANG),
        Scenario("down", "the canary's process is killed", Fault.KILLED),
        Scenario("empty", "every answer of the canary is a 200 with nothing in it", Fault.EMPTY, endings=(PAUSED, ROLLED_BACK)),
        Scenario("bot", "one user of a healthy canary always gets errors, 10 a second", Fault.BOT, endings=(PROMOTED,)),
        Scenario(
            "outage", "both variants fail 30 % of their requests for 20 s", Fault.ERRORS, 0.30, 20.0, True, endings=(PROMOTED,)
        ),
        Scenario("healthy", "nothing goes wrong", Fault.NONE, endings=(PROMOTED,)),
    )
}

#: Requests a second in total, how many users they come from, and the sigma of the users' lognormal rates.
RATE = 800.0
USERS = 20_000
USER_SIGMA = 1.5
BOT_RATE = 10.0
#: Seconds of an answer: median and sigma, p95 about 200 ms.
ANSWER_MEDIAN = 0.080
ANSWER_SIGMA = 0.557
SLOWER = 0.200
#: Seconds of stable alone, then of a healthy canary before its fault begins: latency is judged from the 20th on.
BASELINE = 15.0
HEALTHY_FOR = 25.0
#: Seconds that a pause is watched: whether a rollback follows, which outranks it.
PAUSE_WATCHED = 10.0
#: Seconds of traffic after the end: what still reaches the canary is counted.
AFTERMATH = 2.0
#: Seconds after which a user gives up.
PATIENCE = 15.0
ROUTE = "shop"
WEIGHTS = ("2%", "10%", "50%")
BAKE = 20.0

_CONFIG = """\
listen: 127.0.0.1:0
workers: 2
admin: {{listen: "127.0.0.1:0", token_file: {token}}}
state: {{path: {state}}}
timeouts: {{drain: 1s}}
pools:
  v1: {{servers: ["http://127.0.0.1:{stable}"]}}
  v2: {{servers: ["http://127.0.0.1:{canary}"]}}
routes:
  {route}:
    stable: v1
    canary: v2
    affinity: {{header: X-User-Id}}
    rollout: {{steps: [{steps}], bake: {bake:g}s, i_accept_the_risk: true}}
"""


def config_text(scenario: Scenario, folder: str, stable_port: int, canary_port: int) -> str:
    """The proxy's configuration: all defaults but a short schedule; state and token go into `folder`."""
    steps = ", ".join(f"{{weight: {weight}, hold: {hold:g}s}}" for weight, hold in zip(WEIGHTS, scenario.holds, strict=True))
    paths = {name: json.dumps(f"{folder}/{name}") for name in ("token", "state")}  # a JSON string is a YAML string
    return _CONFIG.format(route=ROUTE, steps=steps, bake=BAKE, stable=stable_port, canary=canary_port, **paths)
