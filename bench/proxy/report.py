"""From rounds to figures, and figures to a table: on the terminal, in Markdown, as JSON. Pure, but for what `machine` asks."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

REFERENCE = "nginx"


@dataclass(frozen=True)
class Measurement:
    """One peer under one workload in one round. CPU is that of the peer's whole process tree, in microseconds a request."""

    workload: str
    peer: str
    round: int
    requests: int
    errors: int
    canary: int
    requests_per_second: float
    user_us: float
    system_us: float

    @property
    def cpu_us(self) -> float:
        """User and system together."""
        return self.user_us + self.system_us


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest over the rounds."""

    median: float
    least: float
    greatest: float

    @classmethod
    def over(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(median(values), min(values), max(values))

    def text(self, digits: int) -> str:
        """`12.1 (11.9..12.6)`."""
        return f"{self.median:,.{digits}f} ({self.least:,.{digits}f}..{self.greatest:,.{digits}f})"


@dataclass(frozen=True)
class Row:
    """A line of the table: one peer under one workload. `ratio` is to nginx in the same round, None without it."""

    workload: str
    peer: str
    cpu_us: Spread
    user_us: float
    system_us: float
    ratio: Spread | None
    requests_per_second: Spread
    canary_percent: float
    errors: int


def rows(measurements: Sequence[Measurement]) -> list[Row]:
    """One row for each workload and peer, in the order in which they first appear."""
    reference = {(m.workload, m.round): m.cpu_us for m in measurements if m.peer == REFERENCE}
    table = []
    for workload, peer in dict.fromkeys((m.workload, m.peer) for m in measurements):
        mine = [m for m in measurements if (m.workload, m.peer) == (workload, peer)]
        ratios = [m.cpu_us / reference[workload, m.round] for m in mine if (workload, m.round) in reference]
        table.append(
            Row(
                workload,
                peer,
                cpu_us=Spread.over([m.cpu_us for m in mine]),
                user_us=median(m.user_us for m in mine),
                system_us=median(m.system_us for m in mine),
                ratio=Spread.over(ratios) if ratios and peer != "direct" else None,
                requests_per_second=Spread.over([m.requests_per_second for m in mine]),
                canary_percent=100 * sum(m.canary for m in mine) / max(1, sum(m.requests for m in mine)),
                errors=sum(m.errors for m in mine),
            )
        )
    return table


_COLUMNS = ("workload", "peer", "CPU us/request", "user + system", "to nginx", "requests/s", "canary", "errors")


def _cells(row: Row) -> tuple[str, ...]:
    digits = 1 if row.cpu_us.median < 200 else 0
    return (
        row.workload,
        row.peer,
        row.cpu_us.text(digits),
        f"{row.user_us:.{digits}f} + {row.system_us:.{digits}f}",
        row.ratio.text(2) if row.ratio else "",
        row.requests_per_second.text(0),
        f"{row.canary_percent:.1f} %" if row.canary_percent else "",
        str(row.errors),
    )


def terminal_table(table_rows: Sequence[Row]) -> Table:
    """The table for a person at a terminal."""
    table = Table(*_COLUMNS, title="median (min..max) over the rounds")
    for before, row in zip([None, *table_rows], table_rows, strict=False):
        if before is not None and before.workload != row.workload:
            table.add_section()
        table.add_row(*_cells(row), style="bold" if row.peer == "canaryproxy" else None)
    return table


def markdown(table_rows: Sequence[Row], description: Sequence[str]) -> str:
    """The table and the machine, for a README."""
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|---|---|---:|---:|---:|---:|---:|---:|"]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in table_rows]
    return "\n".join([*lines, "", *(f"{line}  " for line in description)])


def as_json(measurements: Sequence[Measurement], description: Sequence[str]) -> dict[str, Any]:
    """Everything that was measured, and the rows made from it."""
    return {
        "machine": list(description),
        "rows": [asdict(row) for row in rows(measurements)],
        "measurements": [asdict(m) for m in measurements],
    }


def replace_section(text: str, name: str, content: str) -> str:
    """`text` with what stands between `<!-- name: begin -->` and `<!-- name: end -->` replaced; ValueError without them."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    head, found_begin, rest = text.partition(begin)
    _, found_end, tail = rest.partition(end)
    if not (found_begin and found_end):
        raise ValueError(f"the marks {begin!r} and {end!r} are not both there")
    return f"{head}{begin}\n{content}\n{end}{tail}"


def machine() -> str:
    """The machine in one line: processor, cores, memory, kernel, Python."""
    cpu_info = Path("/proc/cpuinfo").read_text()
    model = next((line.partition(":")[2].strip() for line in cpu_info.splitlines() if line.startswith("model name")), "unknown")
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    kernel = platform.release().partition("-")[0]
    return f"{model}, {os.cpu_count()} cores, {memory_gib:.0f} GiB; Linux {kernel}; Python {platform.python_version()}"
