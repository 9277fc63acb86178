"""Pictures of the results: what each rule costs in false alarms, and what it takes to find a fault. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from pathlib import Path

from matplotlib import pyplot

from bench.detection.cells import CELLS
from bench.detection.peers import PEERS
from bench.detection.report import Runs, delays, of_peer, rollback
from bench.detection.run import Run
from bench.detection.statistics import quantile

_PRODUCT = "canaryproxy"
#: Drawn to the right of everything: half of the rollouts never found the fault.
_NEVER = 3000.0


def draw(cells: Runs, directory: Path) -> None:
    """`delays.svg` in `directory`: for each fault, the median delay of every rule over its false alarms in all healthy cells."""
    directory.mkdir(parents=True, exist_ok=True)
    healthy = [run for name, runs in cells.items() if CELLS[name].kind == "healthy" for run in runs if run.peers]
    faults = {name: [run for run in runs if run.peers] for name, runs in cells.items() if CELLS[name].kind == "fault"}
    shown = {name: runs for name, runs in faults.items() if runs and name.startswith(("errors", "p95", "hang"))}
    columns = 3
    rows = -(-len(shown) // columns)
    figure, grid = pyplot.subplots(rows, columns, figsize=(12, 3.4 * max(rows, 1)), squeeze=False, sharex=True, sharey=True)
    for axes, name in zip(grid.flat, shown, strict=False):
        for rule in (_PRODUCT, *PEERS):
            x, y = _median(name, shown[name], rule), 100 * _alarms(healthy, rule)
            axes.scatter(x, y, s=60 if rule == _PRODUCT else 25, color="tab:green" if rule == _PRODUCT else "tab:gray")
            axes.annotate(rule, (x, y), textcoords="offset points", xytext=(4, 4), fontsize=7)
        axes.set(xscale="log", title=CELLS[name].title, xlim=(0.8, 2 * _NEVER), ylim=(-3, 60))
        axes.axvline(_NEVER / 1.5, color="lightgray", linewidth=0.8)
    for axes in grid[-1]:
        axes.set_xlabel("median delay, s (right of the line: never)")
    for axes in grid[:, 0]:
        axes.set_ylabel("false rollbacks, %")
    for axes in list(grid.flat)[len(shown) :]:
        axes.set_axis_off()
    figure.tight_layout()
    figure.savefig(directory / "delays.svg", metadata={"Date": None})
    pyplot.close(figure)


def _median(name: str, runs: Sequence[Run], rule: str) -> float:
    found = delays(CELLS[name], runs, rollback if rule == _PRODUCT else of_peer(rule))
    value = quantile(found or [inf], 0.5).value
    return min(value, _NEVER)


def _alarms(runs: Sequence[Run], rule: str) -> float:
    if rule == _PRODUCT:
        return sum(run.rollback is not None for run in runs) / max(len(runs), 1)
    return sum(run.peers[rule] is not None for run in runs) / max(len(runs), 1)
