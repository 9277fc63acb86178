"""One command: every scenario in turn, round after round, each run with a proxy of its own. See bench/README.md."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench.live.figures import Measurement
from bench.live.report import as_json, line, markdown, rows, sentences, terminal_table
from bench.live.run import Run
from bench.live.scenario import RATE, SCENARIOS, USERS, Scenario
from bench.proxy.report import machine, replace_section
from canaryproxy.errors import CanaryproxyError

README = Path(__file__).resolve().parents[1] / "README.md"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.live", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=10, metavar="N", help="of each scenario")
    parser.add_argument("--scenarios", nargs="+", choices=[*SCENARIOS], default=[*SCENARIOS])
    parser.add_argument("--parallel", type=int, default=1, metavar="N", help="runs at a time; more than 1 may disturb each other")
    parser.add_argument("--seed", type=int, default=1, help="of users, answer times and faults (not of the proxy's split)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement to FILE, after each run")
    parser.add_argument("--update-readme", action="store_true", help="put the table into bench/README.md")
    return parser.parse_args()


class Bench:
    """All runs, and what came of them."""

    def __init__(self, arguments: argparse.Namespace, console: Console) -> None:
        self._arguments, self._console = arguments, console
        self._began = time.monotonic()
        self.measurements: list[Measurement] = []
        self.failed: list[str] = []

    def description(self) -> list[str]:
        """Machine, date and setting."""
        load = f"{RATE:g} requests/s of {USERS:,} users"
        took = (time.monotonic() - self._began) / 60
        return [
            f"{machine()}.",
            f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {self._arguments.runs} runs of each scenario at {load}, "
            f"{self._arguments.parallel} at a time; {took:.0f} minutes.",
        ]

    async def run(self) -> None:
        """Every run; one that fails is noted and does not end the others."""
        scenarios = [SCENARIOS[name] for name in self._arguments.scenarios]
        plan = [(scenario, number) for number in range(1, self._arguments.runs + 1) for scenario in scenarios]
        slots = asyncio.Semaphore(self._arguments.parallel)
        columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, TimeRemainingColumn(), console=self._console, disable=not self._console.is_terminal) as progress:
            bar = progress.add_task("", total=len(plan))

            async def one(scenario: Scenario, number: int) -> None:
                async with slots:
                    told = await self._measure(
                        scenario, number, lambda stage: progress.update(bar, description=f"{scenario.name}: {stage}")
                    )
                progress.advance(bar)
                self._console.print(told, highlight=False, style="dim", soft_wrap=True)
                self.save()

            async with asyncio.TaskGroup() as tasks:
                for scenario, number in plan:
                    tasks.create_task(one(scenario, number))

    async def _measure(self, scenario: Scenario, number: int, stage: Callable[[str], None]) -> str:
        seed = self._arguments.seed * 1_000 + number
        try:
            measured = await Run(scenario, number, seed, stage).measure()
        except (CanaryproxyError, OSError) as error:
            self.failed.append(f"{scenario.name} {number}: {error}")
            return f"FAILED: {self.failed[-1]}"
        self.measurements.append(measured)
        return line(measured)

    def save(self) -> None:
        """Keep what has been measured so far: a long benchmark may be ended."""
        if self._arguments.json:
            text = json.dumps(as_json(self.measurements, self.failed, self.description()), indent=1)
            self._arguments.json.write_text(text + "\n")


async def _until_signal(bench: Bench) -> bool:
    """Whether all runs came to their end: the first signal ends them, further ones do not disturb the cleaning up."""
    running = asyncio.ensure_future(bench.run())
    received: list[int] = []

    def end(number: int) -> None:
        if not received:
            running.cancel()
        received.append(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, end, number)
    try:
        await running
    except asyncio.CancelledError:
        return False
    return True


def main() -> int:
    """Run the benchmark as the command line says; 0 if every run ended, however it ended."""
    arguments = _arguments()
    console = Console(width=None if sys.stdout.isatty() else 200)
    bench = Bench(arguments, console)
    ended = asyncio.run(_until_signal(bench))
    table, description = rows(bench.measurements), bench.description()
    console.print(terminal_table(table))
    console.print("\n".join([*sentences(table), *bench.failed, *description]), highlight=False, soft_wrap=True)
    if arguments.update_readme and ended:
        README.write_text(replace_section(README.read_text(), "live figures", markdown(table, description)))
    return 0 if ended and not bench.failed else 1


if __name__ == "__main__":
    sys.exit(main())
