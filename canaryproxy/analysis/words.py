"""Numbers as the sentences of a verdict say them. Pure."""

from __future__ import annotations

from math import exp

#: Evidence is said in numbers up to about a million to 1, in natural logarithms.
_COUNTED = 13.8


def percent(part: float, whole: float) -> str:
    """`2.0 %`, `0.10 %`, `50 %`; `-` of nothing."""
    if not whole:
        return "-"
    share = 100 * part / whole
    digits = 0 if share >= 10 or share == 0 else 1 if share >= 1 else 2
    return f"{share:.{digits}f} %"


def share(part: float, whole: float) -> str:
    """`8/402`."""
    return f"{part:.0f}/{whole:.0f}"


def odds(log_e: float) -> str:
    """`858 to 1` of a natural logarithm."""
    if log_e > _COUNTED:
        return "over a million to 1"
    value = exp(log_e)
    if value < 0.05:
        return "less than 0.1 to 1"
    return f"{value:.0f} to 1" if value >= 10 else f"{value:.1f} to 1"


def limit(log_e: float) -> str:
    """`(acts at 286)` of a natural logarithm."""
    return f"(acts at {exp(log_e):.0f})" if log_e <= _COUNTED else "(acts at over a million)"


def points(fraction: float) -> str:
    """`1 pp`."""
    return f"{100 * fraction:g} pp"


def latency(us: int | None) -> str:
    """`4.1 ms`, `250 ms`, `1.02 s`; `unknown` of None."""
    if us is None:
        return "unknown"
    if us >= 1_000_000:
        return f"{us / 1e6:.2f} s"
    return f"{us / 1000:.0f} ms" if us >= 10_000 else f"{us / 1000:.1f} ms"


def still_needed(requests: int | None) -> str:
    """How far away the proof of health is."""
    if requests is None:
        return "no number of requests like these would prove it"
    return f"needs about {requests} more canary requests as good as stable's"


def users(count: int) -> str:
    """`7 users`."""
    return "1 user" if count == 1 else f"{count} users"


def number(value: float | None) -> str:
    """`0.0042`, `1530`, `1.2e+06`; `unknown` of None."""
    return "unknown" if value is None else f"{value:.4g}"
