"""One command: every cell, many rollouts each, on two processes. See bench/README.md for what is simulated and against whom."""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.detection.cells import CELLS, Cell
from bench.detection.report import Runs, markdown, reasons, terminal_tables
from bench.detection.run import SEED, Run, simulate_piece
from bench.proxy.report import machine, replace_section

ROOT = Path(__file__).resolve().parent.parent.parent
README = ROOT / "bench" / "README.md"
#: Parts of the code that a result depends on; results of other code are not gone on with.
_CODE = ("canaryproxy/analysis", "canaryproxy/stats", "bench/detection")
_NOT_CODE = {"report.py", "plots.py", "__main__.py", "statistics.py"}
_SHORT_CELLS, _SHORT_RUNS, _SHORT_SECONDS = ("aa-bot", "errors-50", "hang-100"), 4, 120
_PIECE = 5
_SAVE_EVERY = 60.0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.detection", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=[*CELLS], metavar="CELL", help=f"of {', '.join(CELLS)}")
    parser.add_argument("--runs", type=int, metavar="N", help="rollouts of each cell (1000 of a healthy one, 300 of another)")
    parser.add_argument(
        "--peer-runs", type=int, default=300, metavar="N", help="the other tools see only the first N (%(default)s)"
    )
    parser.add_argument("--processes", type=int, default=2, metavar="N")
    parser.add_argument("--short", action="store_true", help=f"{', '.join(_SHORT_CELLS)} for {_SHORT_SECONDS} s, a few runs")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="go on from FILE if it is of this code, and write every run to it"
    )
    parser.add_argument(
        "--plots", type=Path, metavar="DIRECTORY", help="draw delays and false alarms into DIRECTORY (matplotlib)"
    )
    parser.add_argument(
        "--report", action="store_true", help="simulate nothing: only show (draw, write) what is in the --json FILE"
    )
    parser.add_argument("--update-readme", action="store_true", help="put the tables into bench/README.md")
    arguments = parser.parse_args(argv)
    if arguments.report and not (arguments.json and arguments.json.exists()):
        parser.error("--report: needs the --json FILE of earlier runs")
    return arguments


def code_hash() -> str:
    """What the engine and the world were when a run was made."""
    digest = hashlib.sha256()
    for folder in _CODE:
        for path in sorted((ROOT / folder).glob("*.py")):
            if path.name not in _NOT_CODE or folder != "bench/detection":
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class Results:
    """The runs so far, and the file they are kept in."""

    def __init__(self, path: Path | None, code: str) -> None:
        """Goes on from `path`; `code` marks what is made from now on."""
        self._path, self._code, self._saved = path, code, time.monotonic()
        self.cells: dict[str, list[Run]] = {}
        self._codes: dict[str, str] = {}
        if path is not None and path.exists():
            for name, known in json.loads(path.read_text())["cells"].items():
                if name in CELLS:
                    self._codes[name] = known["code"]
                    self.cells[name] = [Run(**run) for run in known["runs"]]

    @property
    def codes(self) -> list[str]:
        """What code the runs are of; one, if all is well."""
        return sorted(set(self._codes.values()))

    def missing(self, cell: Cell, runs: int) -> list[int]:
        """Numbers of the rollouts of `cell` that must still be simulated; what other code made is forgotten."""
        if self._codes.get(cell.name) != self._code:
            self.cells[cell.name] = []
            self._codes[cell.name] = self._code
        known = {run.number for run in self.cells[cell.name]}
        return [number for number in range(runs) if number not in known]

    def add(self, name: str, runs: Sequence[Run]) -> None:
        """Keep them; now and then on disk too."""
        self.cells[name] = sorted([*self.cells[name], *runs], key=lambda run: run.number)
        if time.monotonic() - self._saved > _SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Write the file anew."""
        self._saved = time.monotonic()
        if self._path is not None:
            cells = {
                name: {"code": self._codes[name], "runs": [asdict(run) for run in runs]} for name, runs in self.cells.items()
            }
            text = json.dumps({"machine": machine(), "seed": SEED, "cells": cells}) + "\n"
            new = self._path.with_suffix(".new")
            new.write_text(text)
            new.replace(self._path)


def simulate_all(work: Sequence[tuple[Cell, Sequence[int]]], processes: int, peer_runs: int) -> Iterator[tuple[str, list[Run]]]:
    """Every rollout in `work`, in pieces as they are done, cell by cell."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        for cell, numbers in work:
            pieces = [numbers[at : at + _PIECE] for at in range(0, len(numbers), _PIECE)]
            yield from pool.map(simulate_piece, [cell] * len(pieces), pieces, [peer_runs] * len(pieces))


def _describe(cells: Runs, codes: Sequence[str]) -> list[str]:
    costs = [run.judge_us for runs in cells.values() for run in runs]
    return [
        f"{machine()}.",
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}; code {', '.join(codes)}, seed {SEED}; "
        f"a tick costs the engine {median(costs or [0.0]):,.0f} us of CPU time (median of the rollouts).",
    ]


def _simulate(chosen: Sequence[Cell], results: Results, arguments: argparse.Namespace, console: Console) -> None:
    default = None
    if arguments.short:
        chosen, default = [cell.shortened(_SHORT_SECONDS) for cell in chosen], _SHORT_RUNS
    work = [(cell, results.missing(cell, arguments.runs or default or cell.runs)) for cell in chosen]
    bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console)
    with bar:
        tasks = {cell.name: bar.add_task(cell.name, total=len(numbers)) for cell, numbers in work if numbers}
        try:
            for name, runs in simulate_all(work, arguments.processes, arguments.peer_runs):
                results.add(name, runs)
                bar.advance(tasks[name], len(runs))
        finally:
            results.save()


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark as the command line says; the runs by cell."""
    arguments = _arguments(argv)
    console = Console()
    # A short rollout is not a piece of a long one: never in one file with them.
    results = Results(arguments.json, code_hash() + ("-short" if arguments.short else ""))
    chosen = [CELLS[name] for name in (_SHORT_CELLS if arguments.short else arguments.cells)]
    if arguments.report:
        chosen = [cell for cell in chosen if results.cells.get(cell.name)]
    else:
        _simulate(chosen, results, arguments, console)
    shown = {cell.name: results.cells[cell.name] for cell in chosen}
    for table in terminal_tables(shown):
        console.print(table)
    for name, runs in shown.items():
        console.print(f"{name}: {', '.join(f'{word} {n}' for word, n in reasons(runs))}", highlight=False, style="dim")
    console.print("\n".join(_describe(shown, results.codes)), highlight=False)
    if arguments.plots:
        from bench.detection.plots import draw

        draw(results.cells, arguments.plots)
    if arguments.update_readme:
        README.write_text(
            replace_section(
                README.read_text(), "detection figures", markdown(results.cells, _describe(results.cells, results.codes))
            )
        )
    return {"cells": shown}


if __name__ == "__main__":
    main()
