"""What all models of the configuration share. Pure; the models are in `schema`, `listening` and `upstreams`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

#: What turns something off where text or a section could stand; YAML texts come as they were written.
_OFF = frozenset({"false", "no", "off"})


class Model(BaseModel):
    """Base: immutable, unknown keys refused. Defaults are written as code sees them (seconds, basis points)."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)
    #: What keys of the user's own hold, in a section that may have them.
    others: ClassVar[type[BaseModel] | None] = None

    @model_validator(mode="before")
    @classmethod
    def _empty_section_is_all_defaults(cls, value: Any) -> Any:
        # `timeouts:` with every line below it commented out is null to YAML, and means the defaults to people
        return {} if value is None else value


_Asked = TypeVar("_Asked", bound=Model)


def fit_timeout(asked: _Asked) -> _Asked:
    """Make the default `timeout` of what is asked each `interval` no longer than that; a written one that is, is refused.

    A validator (mode "after") of models with both.
    """
    fitting = min(asked.timeout, asked.interval)  # type: ignore[attr-defined]
    if "timeout" not in asked.model_fields_set:
        object.__setattr__(asked, "timeout", fitting)
    return asked


def is_off(value: Any) -> bool:
    """Whether this stands for `false`."""
    return value is False or (isinstance(value, str) and value.strip().lower() in _OFF)


def none_if_off(value: Any) -> Any:
    """None in place of `false`."""
    return None if is_off(value) else value


#: The path of a file that is read at start and at reload.
FileName = Annotated[str, Field(min_length=1)]
#: Turns a type that has None into one that is written `false` for None.
OrFalse = BeforeValidator(none_if_off)
