"""One command, one run: every peer in turn, round after round, under each workload. See bench/README.md for what is measured.

The proxy has the first core for itself; origin and load generator share the second. A run with a single wrong answer fails.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from bench.proxy.load import Load, Result
from bench.proxy.peers import LARGE, PEERS, ROOT, SMALL, Server, origin_server
from bench.proxy.process import on_core, running, tree_cpu
from bench.proxy.report import Measurement, as_json, machine, markdown, replace_section, rows, terminal_table

README = ROOT / "bench" / "README.md"
DIRECT = "direct"


class Workload(NamedTuple):
    """What the clients ask for, and how many requests of a connection come from one user."""

    path: str
    length: int
    requests_per_user: int


WORKLOADS = {
    "small": Workload("/", SMALL, 20),  # browsers: a connection belongs to a person
    "mixed": Workload("/", SMALL, 1),  # behind another proxy: each request is another person's
    "large": Workload("/large", LARGE, 20),
}


class Target(NamedTuple):
    """A started peer: whom to ask and whose CPU time to read."""

    port: int
    pid: int


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.proxy", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--seconds", type=float, default=3.0, help="of one peer under one workload in one round")
    parser.add_argument("--peers", nargs="+", choices=[*PEERS, DIRECT], default=[*PEERS, DIRECT])
    parser.add_argument("--workloads", nargs="+", choices=[*WORKLOADS], default=[*WORKLOADS])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement to FILE")
    parser.add_argument("--update-readme", action="store_true", help="put the table into bench/README.md")
    return parser.parse_args()


def _cores() -> tuple[int, int]:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("bench.proxy: one core only; the proxy and the load generator need one each")
    return cores[0], cores[1]


def _start(stack: ExitStack, server: Server, work: Path, core: int) -> Target:
    log = work / f"{server.name}.log"
    return Target(server.port, stack.enter_context(running(server.command, core=core, port=server.port, log=log, cwd=ROOT)))


def _load(load: Load, core: int) -> Result:
    with on_core(core):
        command = [sys.executable, "-m", "bench.proxy.load", json.dumps(asdict(load))]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=load.seconds + 60)
    return Result(**json.loads(done.stdout))


def measure(targets: Mapping[str, Target], workload: str, number: int, seconds: float, core: int) -> list[Measurement]:
    """One round: every target in turn under `workload`."""
    measurements = []
    path, length, per_user = WORKLOADS[workload]
    for name, target in targets.items():
        before = tree_cpu(target.pid)
        result = _load(Load(target.port, path, length, seconds, per_user), core)
        used = tree_cpu(target.pid).since(before)
        if result.errors or not result.requests:
            raise SystemExit(f"{name}, {workload}: {result.errors} errors in {result.requests} requests: {result.first_error}")
        measurements.append(
            Measurement(
                workload=workload,
                peer=name,
                round=number,
                requests=result.requests,
                errors=result.errors,
                canary=result.canary if length == SMALL else 0,
                requests_per_second=result.requests / result.seconds,
                user_us=used.user_us / result.requests,
                system_us=used.system_us / result.requests,
            )
        )
    return measurements


def _wait_for_split(port: int, core: int) -> None:
    """The canary gets its share; until the rollout has started, a figure would leave out what is to be measured."""
    for _ in range(20):
        if _load(Load(port, "/", SMALL, 0.5, 1), core).canary:
            return
    raise SystemExit("canaryproxy: no answer came from the canary; its rollout did not start by itself")


def _describe(versions: Mapping[str, str], rounds: int, seconds: float) -> Sequence[str]:
    return (
        f"{machine()}.",
        ", ".join(f"{name} {version}" for name, version in versions.items() if version) + ".",
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {rounds} rounds of {seconds:g} s each, 64 connections.",
    )


def main() -> None:
    """Run the benchmark as the command line says."""
    arguments = _arguments()
    console = Console(width=None if sys.stdout.isatty() else 140)
    proxy_core, load_core = _cores()
    measurements: list[Measurement] = []
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="canaryproxy-bench-")))
        server, origin = origin_server(work)
        versions = {"origin nginx": server.version}
        origin_target = _start(stack, server, work, load_core)
        targets = {}
        for name in arguments.peers:
            if name == DIRECT:
                targets[name] = origin_target
            else:
                peer = PEERS[name](work, origin)
                versions[name] = peer.version
                targets[name] = _start(stack, peer, work, proxy_core)
        if "canaryproxy" in targets:
            _wait_for_split(targets["canaryproxy"].port, load_core)
        for workload in arguments.workloads:
            measure(targets, workload, 0, min(1.0, arguments.seconds), load_core)  # warms up; not counted
            for number in range(1, arguments.rounds + 1):
                console.print(f"{workload}: round {number} of {arguments.rounds}", highlight=False, style="dim")
                measurements += measure(targets, workload, number, arguments.seconds, load_core)

    description = _describe(versions, arguments.rounds, arguments.seconds)
    table = rows(measurements)
    console.print(terminal_table(table))
    console.print("\n".join(description), highlight=False)
    if arguments.json:
        arguments.json.write_text(json.dumps(as_json(measurements, description), indent=1) + "\n")
    if arguments.update_readme:
        README.write_text(replace_section(README.read_text(), "proxy figures", markdown(table, description)))


if __name__ == "__main__":
    main()
