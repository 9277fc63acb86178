"""What the models refused, in plain words. Pure; called by `config.load`.

The models say what is wrong in their library's terms; here each kind of error gets a sentence about the value as it was
written, in the unit it was written in, and what would be right.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, PlainSerializer, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from canaryproxy.config.metrics import OWN_KINDS
from canaryproxy.config.outside import PROVIDERS
from canaryproxy.config.quantities import SectionError
from canaryproxy.config.schema import Config
from canaryproxy.config.source import Unread, spell
from canaryproxy.errors import Problem

#: What a place of the models has beside the file's: which kind of item it is, and that the key is meant.
_NO_PLACE = ("[key]", "[step]", "[pause]")


def explain(error: ValidationError, data: Any) -> list[Problem]:
    """One problem for each thing that the models refused in `data`; `where` is the path of the place."""
    details = error.errors(include_url=False)
    places = [place_of(detail) for detail in details]
    return [
        _problem(detail, place, place[-1] if detail["loc"][-1:] == ("[key]",) else value_at(data, place))
        for detail, place in zip(details, places, strict=True)
        if not _is_unread(value_at(data, place)) and not (detail["type"] == "too_short" and _has_refused_items(place, places))
    ]


def place_of(detail: ErrorDetails) -> tuple[str | int, ...]:
    """The place of an error: keys of sections and indexes of lists."""
    return tuple(part for part in detail["loc"] if part not in _NO_PLACE and part not in OWN_KINDS)


def did_you_mean(word: Any, choices: Iterable[str]) -> str:
    """`did you mean v2? ` (with the space) if one of the choices is much like the word, else nothing."""
    near = get_close_matches(str(word), list(choices), n=1)
    return f"did you mean {near[0]}? " if near else ""


def _is_unread(value: Any) -> bool:
    # a server's URL or weight is reported where the server is
    return value is Unread or (isinstance(value, dict) and Unread in value.values())


def _has_refused_items(place: tuple[str | int, ...], places: Sequence[tuple[str | int, ...]]) -> bool:
    # the models count only accepted items: a list whose one item is refused is "too short" as well
    return any(len(other) > len(place) and other[: len(place)] == place for other in places)


def value_at(data: Any, place: Sequence[str | int]) -> Any:
    """What `data` has at a place; None where it has nothing."""
    for part in place:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _problem(detail: ErrorDetails, place: tuple[str | int, ...], written: Any) -> Problem:
    # the kind of a metric of the user's own is part of the place for `_field`, not for people
    what, hint = _sentence(detail, tuple(part for part in detail["loc"] if part not in _NO_PLACE), written)
    return Problem(spell(place), what, "".join(c if c.isprintable() else "?" for c in hint))


def _sentence(detail: ErrorDetails, place: tuple[str | int, ...], written: Any) -> tuple[str, str]:
    """What is wrong, and what would be right."""
    shape = "a section" if isinstance(written, dict) else "a list" if isinstance(written, list) else repr(written)
    match detail["type"]:
        case "extra_forbidden":
            keys = ["pause"] if detail["loc"][-2:-1] == ("[pause]",) else _keys(place[:-1])
            if place[-1] == "pause" and place[-3:-2] == ("steps",):
                return "a step has a weight or is a pause, not both", "write - pause: {} below it, as an item of its own"
            if place[-1] == "goal" and place[2:3] == ("metrics",):
                return f"{place[-2]} is a metric, which a goal cannot be named after", "give the goal a name of its own"
            return "unknown key", f"{did_you_mean(place[-1], keys)}keys here: {', '.join(keys)}"
        case "no_metric":
            keys = _keys(place[:-1])
            if isinstance(written, dict) and (near := [did_you_mean(key, PROVIDERS) for key in written]) and any(near):
                return "asks nobody", f"{''.join(near)}providers: {', '.join(PROVIDERS)}"
            own = "or, for a goal by a name of your own, add goal: {path: /checkout} or goal: posted"
            return "is neither a metric nor a goal", f"{did_you_mean(place[-1], keys)}metrics: {', '.join(keys)}; {own}"
        case "missing":
            return "is missing", f"add it: {_description(place)}"
        case _ if written is None:
            meaning = f" ({text})" if (text := _description(place)) else ""
            return "is empty", f"write a value{meaning} or remove the key"
        case "too_short":
            return "is empty", f"write at least one: {_description(place)}"
        case "model_type" | "dict_type":
            return f"is {shape} where keys are meant", f"keys here: {', '.join(_keys(place)) or _description(place)}"
        case "tuple_type":
            hint = f"write [{written}]" if isinstance(written, str) else "begin each item with -"
            return f"is {shape} where a list is meant", hint
        case _ if isinstance(written, dict | list) and not isinstance(detail.get("ctx", {}).get("error"), SectionError):
            return f"is {shape} where one value is meant", "write one value"
        case kind:
            return _about_value(kind, detail.get("ctx", {}), place, written)


def _about_value(kind: str, context: dict[str, Any], place: tuple[str | int, ...], written: Any) -> tuple[str, str]:
    match kind:
        case "value_error":  # our own validators' words: `what; hint`
            what, _, hint = str(context["error"]).partition("; ")
            return what, hint
        case "literal_error" | "enum":
            expected = str(context["expected"]).replace("'", "")
            near = did_you_mean(written, expected.replace(" or ", ", ").split(", "))
            return f"{written!r} is not known here", f"{near}write {expected}"
        case "greater_than":
            return f"{written!r} is too small", f"write more than {_as_written(place, context['gt'])}"
        case "greater_than_equal":
            return f"{written!r} is too small", f"write at least {_as_written(place, context['ge'])}"
        case "less_than":
            return f"{written!r} is too large", f"write less than {_as_written(place, context['lt'])}"
        case "less_than_equal":
            return f"{written!r} is too large", f"write at most {_as_written(place, context['le'])}"
        case "int_parsing" | "int_type" | "int_from_float" | "int_parsing_size":
            return f"{written!r} is not a whole number", "write digits only"
        case "bool_parsing" | "bool_type":
            return f"{written!r} is neither true nor false", "write true or false"
        case "string_type":
            return f"{written!r} is not text", "put it in quotes"
        case "string_too_long":
            return f"has {len(written)} characters", f"write at most {context['max_length']}"
        case "string_too_short":
            return "is empty", "write a value or remove the key"
        case _:
            return f"{written!r} is not usable here", ""


def _as_written(place: tuple[str | int, ...], value: Any) -> str:
    """A bound in the unit that people write there: 1 -> `0.01%`, 60 -> `1m`."""
    field, _ = _field(place)
    for mark in field.metadata if field else ():
        if isinstance(mark, PlainSerializer):
            return str(mark.func(value))  # type: ignore[call-arg]
    return str(value)


# --- the models, by place ---


def _field(place: Sequence[str | int]) -> tuple[FieldInfo | None, Any]:
    """The field of a place (None for an entry of a dictionary or list) and its type."""
    field: FieldInfo | None = None
    kind: Any = Config
    for part in place:
        if part in OWN_KINDS:
            field, kind = None, OWN_KINDS[str(part)]
        elif model := _model_in(kind, part):
            field = next((field for name, field in model.model_fields.items() if (field.alias or name) == part), None)
            kind = field.annotation if field else getattr(model, "others", None)
        else:  # dict[Name, Pool] or tuple[Step, ...]
            field = None
            kind = (get_args(kind) or (None,))[0 if isinstance(part, int) else -1]
    return field, kind


def _model_in(kind: Any, key: str | int = "") -> type[BaseModel] | None:
    """The model that a type is, or may be (`Tls | None`); of several the one that has this key, or the first."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    kinds = [_model_in(one) for one in get_args(kind)] if get_origin(kind) in (UnionType, Union) else [kind]
    models = [one for one in kinds if isinstance(one, type) and issubclass(one, BaseModel)]
    return next((model for model in models if key in model.model_fields), models[0] if models else None)


def _description(place: Sequence[str | int]) -> str:
    field, _ = _field(place)
    return (field.description or "") if field else ""


def _keys(place: Sequence[str | int]) -> list[str]:
    model = _model_in(_field(place)[1])
    return [field.alias or name for name, field in model.model_fields.items()] if model else []
