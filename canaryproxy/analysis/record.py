"""What a judge is told, as text that gives back exactly the same: settings, ticks, and the entries of a journal. Pure.

Written by `control.journal`, read by `analysis.replay`. A journal is a list of entries in the order in which the judge was told
them: `Opening` (a judge is made), `Step` (`begin_step`) and `Judged` (`judge`, with a mark of what it found). They are kept in
blocks: JSON in zlib, some seconds each. Numbers are written as Python writes them, which reads back to the same bit; mappings
keep their order, for sums of floats depend on it.
"""

from __future__ import annotations

import json
import types
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from typing import Any, Final, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from canaryproxy.analysis.sample import ArmTick, Cohort, Group, Measurement, Tick
from canaryproxy.analysis.settings import JudgeSettings
from canaryproxy.analysis.verdict import Verdict

#: The version of this text form; another one is refused.
FORMAT: Final = 1

T = TypeVar("T")


class Mark(NamedTuple):
    """What is kept of a verdict at each tick: its outcome and action in words, and a checksum of its sentence."""

    outcome: str
    action: str
    sentence: int


@dataclass(frozen=True, slots=True)
class Opening:
    """A judge is made with these settings and this state (JSON-ready both), by this version of canaryproxy."""

    settings: dict[str, Any]
    state: dict[str, Any]
    version: str


@dataclass(frozen=True, slots=True)
class Step:
    """Health is to be proven anew."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A tick, and what was found."""

    tick: Tick
    full_weight: bool
    found: Mark


Entry = Opening | Step | Judged


def mark(verdict: Verdict) -> Mark:
    """What tells this verdict from another one."""
    return Mark(verdict.outcome.name.lower(), verdict.action.value, zlib.crc32(verdict.sentence.encode()))


# --- Blocks ---


def pack(entries: Iterable[Entry]) -> bytes:
    """A block of these entries."""
    return zlib.compress(json.dumps([FORMAT, *map(_entry_to_json, entries)], separators=(",", ":")).encode())


def unpack(block: bytes) -> list[Entry]:
    """The entries of a block; raises ValueError for what `pack` did not write."""
    try:
        form, *entries = json.loads(zlib.decompress(block))
        if form != FORMAT:
            raise ValueError(f"its form is {form}, this version knows {FORMAT}")
        return [_entry_from_json(*entry) for entry in entries]
    except (zlib.error, TypeError, KeyError, IndexError) as error:
        raise ValueError(f"not a block of a journal ({error!r})") from error


def _entry_to_json(entry: Entry) -> list[Any]:
    match entry:
        case Judged(tick, full_weight, found):
            return ["j", tick_to_json(tick), int(full_weight), *found]
        case Step():
            return ["s"]
        case Opening(settings, state, version):
            return ["o", settings, state, version]


def _entry_from_json(kind: str, *rest: Any) -> Entry:
    match kind:
        case "j":
            tick, full_weight, *found = rest
            return Judged(tick_from_json(tick), bool(full_weight), Mark(*found))
        case "s":
            return Step()
        case "o":
            return Opening(*rest)
    raise ValueError(f"an entry of kind {kind!r}")


# --- Ticks ---

#: Members of an arm that are one number each, in the order in which they are written.
_NUMBERS: Final = ("resolved", "failed", "refused", "limited", "began", "in_flight", "users", "hurt")


def tick_to_json(tick: Tick) -> list[Any]:
    """A tick, JSON-ready and small: numbers by their place, mappings as columns, and what is empty left out."""
    counts = [tick.elapsed, tick.weight, tick.share, _arm_to_json(tick.stable), _arm_to_json(tick.canary)]
    return [*counts, tick.outside] if tick.outside else counts


def tick_from_json(tick: list[Any]) -> Tick:
    """The tick that `tick_to_json` wrote."""
    elapsed, weight, share, stable, canary, *outside = tick
    measured = tuple(Measurement(*one) for one in (outside[0] if outside else ()))
    return Tick(elapsed, _arm_from_json(*stable), _arm_from_json(*canary), weight, share, measured)


def _arm_to_json(arm: ArmTick) -> list[Any]:
    rest: dict[str, Any] = {}
    if arm.cohorts:
        rest["c"] = {name: [[c.started, *c.thresholds_us, *c.within] for c in cohorts] for name, cohorts in arm.cohorts.items()}
    if arm.latency:
        rest["l"] = _columns(arm.latency)
    if arm.sizes:
        rest["s"] = _columns(arm.sizes)
    if arm.goals:
        rest["g"] = arm.goals
    if arm.groups:
        # Of one thing after another, and the ended as what is missing from the started: mostly zeros, which cost nothing.
        started, ended, failed, slow = zip(*arm.groups.values(), strict=True)
        missing = [a - b for a, b in zip(started, ended, strict=True)]
        rest["u"] = [_gaps(arm.groups), started, missing, failed, slow]
    numbers = [getattr(arm, name) for name in _NUMBERS]
    return [*numbers, rest] if rest else numbers


def _arm_from_json(*arm: Any) -> ArmTick:
    numbers, (rest,) = arm[: len(_NUMBERS)], arm[len(_NUMBERS) :] or ({},)
    groups = {}
    if "u" in rest:
        gaps, started, missing, failed, slow = rest["u"]
        rows = zip(_sums(gaps), started, missing, failed, slow, strict=True)
        groups = {group: Group(began, began - open_, bad, late) for group, began, open_, bad, late in rows}
    return ArmTick(
        **dict(zip(_NUMBERS, numbers, strict=True)),
        cohorts={name: tuple(map(_cohort, cohorts)) for name, cohorts in rest.get("c", {}).items()},
        latency=_mapping(*rest.get("l", ([], []))),
        sizes=_mapping(*rest.get("s", ([], []))),
        goals=tuple(rest.get("g", ())),
        groups=groups,
    )


def _cohort(row: list[int]) -> Cohort:
    half = len(row) // 2
    return Cohort(tuple(row[1 : half + 1]), row[0], tuple(row[half + 1 :]))


def _columns(counts: Mapping[int, int]) -> tuple[list[int], list[int]]:
    return _gaps(counts), list(counts.values())


def _mapping(gaps: list[int], counts: list[int]) -> dict[int, int]:
    return dict(zip(_sums(gaps), counts, strict=True))


def _gaps(keys: Iterable[int]) -> list[int]:
    """Each key as its distance from the one before: neighbours are ones."""
    ordered = list(keys)
    return [b - a for a, b in zip([0, *ordered], ordered, strict=False)]


def _sums(gaps: Sequence[int]) -> list[int]:
    total, keys = 0, []
    for gap in gaps:
        total += gap
        keys.append(total)
    return keys


# --- Settings: whatever fields they have, now or later ---


def settings_to_json(settings: JudgeSettings) -> dict[str, Any]:
    """The settings, JSON-ready."""
    plain: dict[str, Any] = _to_json(settings)
    return plain


def settings_from_json(plain: Mapping[str, Any]) -> JudgeSettings:
    """The settings that `settings_to_json` wrote: a field they do not have takes its default, one they have too many is an error.

    Raises ValueError.
    """
    return _made(JudgeSettings, plain)


def _to_json(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value):
        return {field.name: _to_json(getattr(value, field.name)) for field in fields(value)}
    return [_to_json(one) for one in value] if isinstance(value, tuple) else value


def _made(kind: type[T], plain: Any) -> T:
    """The dataclass `kind` from its fields."""
    if not isinstance(plain, Mapping):
        raise ValueError(f"{plain!r} is not a {kind.__name__}")
    types_of, known = get_type_hints(kind), {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    if unknown := plain.keys() - known.keys():
        raise ValueError(f"{kind.__name__} has no {', '.join(sorted(unknown))}")
    needed = {name for name, field in known.items() if field.default is field.default_factory is MISSING}
    if missing := needed - plain.keys():
        raise ValueError(f"{kind.__name__} needs {', '.join(sorted(missing))}")
    return kind(**{name: _from_json(types_of[name], value) for name, value in plain.items()})


def _from_json(kind: Any, plain: Any) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        if plain is None and types.NoneType in get_args(kind):
            return None
        (kind,) = (one for one in get_args(kind) if one is not types.NoneType)
    if get_origin(kind) is tuple:
        return tuple(_from_json(get_args(kind)[0], one) for one in plain)
    if is_dataclass(kind):
        return _made(kind, plain)  # type: ignore[arg-type]
    return kind(plain) if issubclass(kind, Enum) else plain
