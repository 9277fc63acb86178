"""What is simulated: each cell is a service, a fault or none, a schedule, and what the design demands of the engine there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from bench.detection.world import Fault, Scenario

#: Weights and seconds of the schedule on which false alarms are compared.
STEPS = ((0.01, 300), (0.05, 300), (0.25, 300), (0.50, 300))
ONE_PERCENT = ((0.01, 1200),)
#: After the warm-up of latency, and when the canary's own share of the traffic is known.
LATER = 60

NO_FAULT = Fault()

Kind = Literal["healthy", "fault", "promotion", "margin"]


@dataclass(frozen=True)
class Target:
    """Bounds of section 3 of the design, None where it has none: seconds for a delay, probabilities for a false alarm."""

    p50: float | None = None
    p95: float | None = None
    pause_p95: float | None = None
    rollbacks: float | None = None
    pauses: float | None = None
    errors: float | None = None


@dataclass(frozen=True)
class Cell:
    """One line of the table. `onset`: the second of the rollout in which the fault begins.

    `kind`: a false alarm is counted ("healthy"), a delay until rollback ("fault"), the time to 100 % under a schedule that the
    engine itself drives ("promotion"), or steps passed by a canary at the margin ("margin").
    """

    name: str
    title: str
    kind: Kind
    scenario: Scenario
    fault: Fault = NO_FAULT
    onset: int = 0
    schedule: tuple[tuple[float, int], ...] = ONE_PERCENT
    target: Target = Target()
    peers: bool = True

    @property
    def seconds(self) -> int:
        """How long the schedule goes on."""
        return sum(seconds for _, seconds in self.schedule)

    @property
    def runs(self) -> int:
        """The number of rollouts that the protocol demands."""
        return 1000 if self.kind == "healthy" else 300

    def shortened(self, seconds: int) -> Cell:
        """The same for so many seconds at the first weight only."""
        return replace(self, schedule=((self.schedule[0][0], seconds),))


def _healthy(name: str, title: str, scenario: Scenario, pauses: float = 0.02) -> Cell:
    return Cell(name, title, "healthy", scenario, schedule=STEPS, target=Target(rollbacks=0.01, pauses=pauses))


def _errors(percent: int, p50: float, p95: float, clustered: tuple[float, float] | None) -> list[Cell]:
    fault, title = Fault(errors=percent / 100), f"5xx 0.1 -> {percent} %"
    cells = [Cell(f"errors-{percent}", title, "fault", IID, fault, target=Target(p50, p95, errors=10))]
    cells += [
        Cell(
            f"errors-{percent}-clustered",
            f"{title}, clustered users",
            "fault",
            CLUSTERED,
            fault,
            target=Target(*clustered, errors=10) if clustered else Target(errors=10),
        )
    ]
    return cells


def _later(percent: int, p50: float, p95: float) -> Cell:
    title = f"5xx 0.1 -> {percent} %, 150 s into the 5 % step"
    fault, schedule = Fault(errors=percent / 100), ((0.01, 300), (0.05, 900))
    return Cell(f"later-{percent}", title, "fault", IID, fault, 450, schedule, Target(p50, p95))


def _slow(name: str, title: str, fault: Fault, target: Target) -> Cell:
    return Cell(name, title, "fault", IID, fault, LATER, target=target)


def _traffic(percent: int, p95: float) -> Cell:
    fault = Fault(traffic=1 - percent / 100)
    return Cell(f"traffic-{percent}", f"canary traffic -{percent} %", "fault", IID, fault, target=Target(p95=p95))


def _goals(rate: int, p95: float) -> Cell:
    scenario, title = Scenario(rate=100, goals=rate), f"conversions -10 % at 50 %, {rate}/s"
    return Cell(f"goals-{rate}", title, "fault", scenario, Fault(goals=0.9), 0, ((0.5, 4200),), Target(p95=p95), peers=False)


def _promotion(rate: int, p50: float) -> Cell:
    title = f"healthy to 100 %, {rate:,} requests/s, 30 s a step"
    steps = tuple((weight, 30) for weight, _ in STEPS)
    return Cell(f"promote-{rate}", title, "promotion", Scenario(rate=rate), schedule=steps, target=Target(p50=p50), peers=False)


IID = Scenario()
CLUSTERED = Scenario(broken_clients=True)
_BOT = Scenario(broken_clients=True, bot=True)

_ALL = (
    _healthy("aa-0.1", "independent failures, 0.1 %", IID),
    _healthy("aa-0.9", "independent failures, 0.9 %", Scenario(base=0.009)),
    _healthy("aa-bursts", "bursts that both share", Scenario(bursts=True)),
    _healthy("aa-drift", "drift 0.1 -> 1.1 %", Scenario(drift_to=0.011)),
    _healthy("aa-clustered", "clustered users", CLUSTERED),
    _healthy("aa-bot", "clustered users, bot", _BOT, pauses=0.08),
    _healthy("aa-bot-bursts", "clustered users, bot, bursts", Scenario(broken_clients=True, bot=True, bursts=True), pauses=0.08),
    Cell(
        "aa-goals",
        "conversions 50/s, 50 % for an hour",
        "healthy",
        Scenario(rate=100, goals=50),
        schedule=((0.5, 3600),),
        target=Target(rollbacks=0.01, pauses=0.02),
        peers=False,
    ),
    *_errors(2, 60, 120, (120, 330)),
    *_errors(5, 15, 30, (20, 50)),
    *_errors(50, 2, 3, None),
    _later(2, 20, 35),
    _later(5, 6, 10),
    _later(50, 2, 2),
    _slow("p95-60", "p95 +60 ms", Fault(slower=0.060), Target(p95=100, pause_p95=110)),
    _slow("p95-200", "p95 +200 ms", Fault(slower=0.200), Target(p95=3)),
    _slow("hang-20", "20 % hang", Fault(hangs=0.2), Target(p95=15)),
    _slow("hang-100", "all hang", Fault(hangs=1.0), Target(p95=4)),
    _goals(50, 420),
    _goals(5, 3000),
    _traffic(100, 5),
    _traffic(50, 40),
    _promotion(1000, 180),
    _promotion(100, 900),
    Cell(
        "promote-1pp",
        "a true +1 pp passes a step (600 s)",
        "margin",
        IID,
        Fault(errors=0.011),
        schedule=((0.01, 600),),
        target=Target(rollbacks=0.05),
        peers=False,
    ),
)
CELLS = {cell.name: cell for cell in _ALL}
