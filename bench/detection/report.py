"""From runs to figures with their intervals, and figures to tables: on the terminal and in Markdown. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import inf, isfinite
from statistics import median

from rich.table import Table

from bench.detection.cells import CELLS, Cell
from bench.detection.peers import PEERS
from bench.detection.run import Run
from bench.detection.statistics import Estimate, proportion, quantile

Runs = Mapping[str, Sequence[Run]]
Row = tuple[str, ...]


def delays(cell: Cell, runs: Sequence[Run], when: Callable[[Run], int | None]) -> list[float]:
    """Seconds from the onset to what `when` reads; infinite if it never came. Runs in which it came before are left out."""
    moments = [inf if moment is None else moment - cell.onset for moment in map(when, runs)]
    return [moment for moment in moments if moment > 0]


def early(cell: Cell, runs: Sequence[Run], when: Callable[[Run], int | None]) -> int:
    """Runs in which it came before the fault: false alarms."""
    return sum(1 for moment in map(when, runs) if moment is not None and moment <= cell.onset)


def percent(estimate: Estimate) -> str:
    """`0.30 % (0.06..0.87)`."""
    return f"{_percent(estimate.value)} % ({_percent(estimate.low)}..{_percent(estimate.high)})"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}" if share >= 0.1 else f"{100 * share:.2g}"


def seconds(estimate: Estimate) -> str:
    """`40 (38..43)`, or `never`."""
    return f"{_number(estimate.value)} ({_number(max(estimate.low, 0))}..{_number(estimate.high)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if isfinite(value) else "never"


def verdict(*found: tuple[Estimate, float]) -> str:
    """Whether every value is at most its bound, and `not surely` where the intervals allow the opposite too."""
    met = all(one.value <= bound for one, bound in found)
    sure = all(one.high <= bound for one, bound in found) if met else any(one.low > bound for one, bound in found)
    return ("met" if met else "**missed**") + ("" if sure else ", not surely")


def rollback(run: Run) -> int | None:
    """When the engine rolled back."""
    return run.rollback


def acted(run: Run) -> int | None:
    """When the engine first rolled back or paused: from then on no more users get the canary."""
    moments = [moment for moment in (run.rollback, run.pause) if moment is not None]
    return min(moments) if moments else None


def of_peer(name: str) -> Callable[[Run], int | None]:
    """When that tool rolled back."""
    return lambda run: run.peers[name]


def _with_peers(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run.peers]


# --- Healthy canaries ---

FALSE_ALARMS = ("healthy canary", "rollouts", "rolled back", "paused", "frozen", "target", *PEERS)


def false_alarms(cells: Runs) -> list[Row]:
    """One line for each healthy cell, and one for all of them together: who rolls it back?"""
    table, pooled = [], [0, 0]
    for name, runs in _of_kind(cells, "healthy"):
        cell, wanted = CELLS[name], CELLS[name].target
        rolled = sum(run.rollback is not None for run in runs)
        paused = sum(run.pause is not None for run in runs)
        frozen = sum(run.freeze is not None for run in runs)
        alarms, pauses = proportion(rolled, len(runs)), proportion(paused, len(runs))
        bounds = wanted.rollbacks or 0.0, wanted.pauses or 0.0
        target = f"<= {100 * bounds[0]:g} %, <= {100 * bounds[1]:g} %: {verdict((alarms, bounds[0]), (pauses, bounds[1]))}"
        compared = _with_peers(runs)
        others = [_share_of(peer, compared) for peer in PEERS]
        shares = percent(alarms), percent(pauses), f"{_percent(frozen / len(runs))} %"
        table.append((cell.title, str(len(runs)), *shares, target, *others))
        pooled = [pooled[0] + rolled, pooled[1] + len(runs)]
    if pooled[1]:
        alarms = proportion(*pooled)
        row = ("all of them", str(pooled[1]), percent(alarms), "", "", f"<= 0.3 %: {verdict((alarms, 0.003))}")
        table.append((*row, *("" for _ in PEERS)))
    return table


def _share_of(peer: str, runs: Sequence[Run]) -> str:
    if not runs:
        return ""
    return f"{_percent(sum(run.peers[peer] is not None for run in runs) / len(runs))} %"


# --- Faults ---

DELAYS = ("fault", "rollouts", "rolled back p50", "p95", "acted p50", "p95", "errors", "users", "early", "target")
PEER_DELAYS = ("fault", "canaryproxy", *PEERS)


def fault_delays(cells: Runs) -> list[Row]:
    """One line for each fault: how long until the engine rolled back (and until it acted at all), and what users had of it."""
    table: list[Row] = []
    for name, runs in _of_kind(cells, "fault"):
        cell, wanted = CELLS[name], CELLS[name].target
        found, first = delays(cell, runs, rollback), delays(cell, runs, acted)
        p50, p95 = (quantile(found or [inf], q) for q in (0.5, 0.95))
        first_p50, first_p95 = (quantile(first or [inf], q) for q in (0.5, 0.95))
        errors = median(run.errors for run in runs)
        bounds = (
            ("p50", wanted.p50, p50),
            ("p95", wanted.p95, p95),
            ("act p95", wanted.pause_p95, first_p95),
            ("errors", wanted.errors, quantile([run.errors for run in runs], 0.5)._replace(value=errors)),
        )
        demands = [(word, bound, seen) for word, bound, seen in bounds if bound is not None]
        target = ", ".join(f"{word} <= {bound:g}" for word, bound, _ in demands)
        target += f": {verdict(*((seen, bound) for _, bound, seen in demands))}" if demands else ""
        figures = (seconds(p50), seconds(p95), _number(first_p50.value), _number(first_p95.value))
        seen = (f"{errors:g}", f"{median(run.hurt for run in runs):g}", str(early(cell, runs, rollback)))
        table.append((cell.title, str(len(runs)), *figures, *seen, target))
    return table


def peer_delays(cells: Runs) -> list[Row]:
    """The same faults, p50/p95 in seconds until each tool rolls back, on the same requests, false alarms left out."""
    table = []
    for name, runs in _of_kind(cells, "fault"):
        if compared := _with_peers(runs):
            rules = [rollback, *(of_peer(peer) for peer in PEERS)]
            table.append((CELLS[name].title, *(_both(delays(CELLS[name], compared, rule)) for rule in rules)))
    return table


def _both(found: Sequence[float]) -> str:
    if not found:
        return ""
    p50, p95 = quantile(found, 0.5).value, quantile(found, 0.95).value
    return "never" if p50 == inf == p95 else f"{_number(p50)} / {_number(p95)}"


# --- Promotion ---

PROMOTIONS = ("promotion", "rollouts", "p50", "p95", "not promoted", "target")


def promotions(cells: Runs) -> list[Row]:
    """How long a healthy canary takes to 100 %, and how often one at the margin passes a step."""
    table: list[Row] = []
    for name, runs in _of_kind(cells, "promotion"):
        wanted, taken = CELLS[name].target.p50 or inf, [inf if run.full is None else float(run.full) for run in runs]
        p50, stuck = quantile(taken, 0.5), sum(moment == inf for moment in taken)
        row = (CELLS[name].title, str(len(runs)), seconds(p50), seconds(quantile(taken, 0.95)), str(stuck))
        table.append((*row, f"p50 <= {wanted:g}: {verdict((p50, wanted))}"))
    for name, runs in _of_kind(cells, "margin"):
        bound, passed = CELLS[name].target.rollbacks or 1.0, sum(run.promote is not None for run in runs)
        share = proportion(passed, len(runs))
        row = (CELLS[name].title, str(len(runs)), percent(share), "", str(len(runs) - passed))
        table.append((*row, f"<= {100 * bound:g} %: {verdict((share, bound))}"))
    return table


def _of_kind(cells: Runs, kind: str) -> list[tuple[str, Sequence[Run]]]:
    return [(name, cells[name]) for name, cell in CELLS.items() if cell.kind == kind and cells.get(name)]


# --- Shown ---

_TABLES: dict[str, tuple[Row, Callable[[Runs], list[Row]]]] = {
    "False alarms": (FALSE_ALARMS, false_alarms),
    "Delays in seconds": (DELAYS, fault_delays),
    "The same beside other tools, p50 / p95 in seconds": (PEER_DELAYS, peer_delays),
    "Promotion in seconds": (PROMOTIONS, promotions),
}


def terminal_tables(cells: Runs) -> list[Table]:
    """The tables for a person at a terminal."""
    shown = []
    for title, (columns, rows) in _TABLES.items():
        if found := rows(cells):
            table = Table(*columns, title=title)
            for row in found:
                table.add_row(*row)
            shown.append(table)
    return shown


def markdown(cells: Runs, description: Sequence[str]) -> str:
    """The tables and how they were made, for a README."""
    lines = []
    for title, (columns, rows) in _TABLES.items():
        if found := rows(cells):
            lines += [f"**{title}**", "", _line(columns), _line(["---", *("---:" for _ in columns[1:])])]
            lines += [*(_line(row) for row in found), ""]
    return "\n".join([*lines, *(f"{line}  " for line in description)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def reasons(runs: Sequence[Run]) -> list[tuple[str, int]]:
    """The metrics that rolled back or paused, the most frequent first."""
    words = [f"rollback: {_metric(run.why)}" for run in runs if run.rollback is not None]
    words += [f"pause: {_metric(run.paused_why)}" for run in runs if run.pause is not None]
    return Counter(words).most_common()


def _metric(sentence: str) -> str:
    """What the sentence is about, by its only words that name a metric."""
    known = {"took over": "latency", "hung": "stalls", "waits for": "stalls", " requests, ": "throughput", "4xx": "client_errors"}
    known |= {"conversions": "goal", "short": "response_size", "allowed": "success_floor", "failed": "error_rate"}
    return next((metric for words, metric in known.items() if words in sentence), "?")
