"""The forms of the admin API's bodies and answers, by name (JSON Schema 2020-12, as OpenAPI 3.1 has it). Used by `admin.openapi`.

Bodies are closed, for unknown members are refused; answers are open, for members may be added.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from canaryproxy.analysis.verdict import Action, Outcome
from canaryproxy.rollout.model import Gate, Phase

Form = dict[str, Any]


def obj(**members: Form) -> Form:
    """An answer with all of these members, and perhaps others."""
    return {"type": "object", "properties": members, "required": [*members]}


def body(needed: tuple[str, ...] = (), **members: Form) -> Form:
    """A request's body: these members, of which some are needed, and no others."""
    form: Form = {"type": "object", "properties": members, "additionalProperties": False}
    return form | ({"required": [*needed]} if needed else {})


def listed(items: Form) -> Form:
    """A list."""
    return {"type": "array", "items": items}


def ref(name: str) -> Form:
    """A form by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


def maybe(form: Form) -> Form:
    """It, or null."""
    return {"anyOf": [form, {"type": "null"}]}


TEXT: Form = {"type": "string"}
WHOLE: Form = {"type": "integer"}
COUNT: Form = {"type": "integer", "minimum": 0}
NUMBER: Form = {"type": "number"}
FLAG: Form = {"type": "boolean"}
ANY: Form = {"type": "object"}
TIME: Form = {"type": ["string", "null"], "description": "ISO 8601, UTC"}
REASON: Form = {"type": "string", "maxLength": 500, "description": "kept with the decision"}
WORD: Form = {"type": "string", "minLength": 1, "maxLength": 512, "pattern": r"^[ -~]+$"}

_VARIANT = obj(
    pool=TEXT,
    version=TEXT,
    requests=COUNT,
    in_flight=COUNT,
    requests_per_second=NUMBER,
    error_percent=maybe(NUMBER),
    p95_ms=maybe(NUMBER),
)
_ROUTE = {
    "route": TEXT,
    "phase": {"type": "string", "enum": [phase.value for phase in Phase]},
    "step": {"type": "integer", "minimum": 1, "description": "the first is 1"},
    "steps": COUNT,
    "weight_percent": {"type": "number", "minimum": 0, "maximum": 100},
    "weight_in_force_percent": {"type": "number", "description": "less than weight_percent while that could not be saved"},
    "epoch": COUNT,
    "revision": {"type": "integer", "minimum": 0, "description": "the ETag"},
    "salt_id": TEXT,
    "stable": ref("Variant"),
    "canary": maybe(ref("Variant")),
    "verdict": {"enum": [*(outcome.name.lower() for outcome in Outcome), None]},
    "action": {"enum": [*(action.value for action in Action), None]},
    "sentence": TEXT,
    "reason": TEXT,
    "evidence": {"type": "object", "additionalProperties": {"type": "object"}},
    "users": obj(exposed=COUNT, hurt=COUNT),
    "frozen": FLAG,
    "gate": {"enum": [*(gate.value for gate in Gate), None], "description": "what it waits for beside evidence"},
    "plan": obj(
        steps=listed(obj(weight_percent=NUMBER, hold=NUMBER, pause=maybe(NUMBER))),
        bake=obj(weight_percent=NUMBER, hold=NUMBER),
        max_duration=NUMBER,
    ),
    "hold": NUMBER,
    "held": NUMBER,
    "started_at": TIME,
    "step_entered_at": TIME,
    "ended_at": TIME,
    "saved": {"type": "boolean", "description": "false while the store fails"},
    "hooks": obj(waiting=listed(ANY), unheard=ANY, notifications=ANY),
    "deploy": maybe(obj(id=TEXT, state=TEXT, detail=TEXT, by=TEXT, at=NUMBER, canary=TEXT, reason=TEXT)),
}
_CHANGED = {
    "applied_by": {"type": "integer", "minimum": 0, "description": "workers that obey it"},
    "workers": COUNT,
}
_DECISION = obj(
    id=WHOLE, at={"type": "number", "description": "seconds since 1970"}, kind=TEXT, sentence=TEXT, data={"type": "object"}
)
_EVENT = body(
    ("goal", "user", "id"),
    goal=WORD,
    user=WORD | {"description": "the key that the route's affinity takes"},
    id=WORD | {"description": "the event's own: sent twice, it counts once"},
)
_POOL = obj(
    pool=TEXT,
    version=TEXT,
    revision=TEXT,
    definition=ANY,
    source={"type": "string", "enum": ["api", "file"]},
    registered_at=TIME,
    registered_by=maybe(TEXT),
    routes=listed(TEXT),
    serving=FLAG,
    workers=COUNT,
    draining=COUNT,
)

#: Basis points are what a share is counted in.
_PERCENT = r"^(100(\.0{1,2})?|[1-9]?[0-9](\.[0-9]{1,2})?)%$"

SCHEMAS: Mapping[str, Form] = {
    "Error": obj(error=obj(code=TEXT | {"description": "a word for programs"}, message=TEXT, hint=TEXT)),
    "Variant": _VARIANT,
    "Route": obj(**_ROUTE),
    "Routes": obj(routes=listed(ref("Route"))),
    "Changed": obj(**_ROUTE, **_CHANGED),
    "Decision": _DECISION,
    "Decisions": obj(decisions=listed(ref("Decision"))),
    "Journals": obj(rollouts=listed(TEXT)),
    "Blocks": obj(rollout=TEXT, blocks=listed(obj(id=WHOLE, first=COUNT, ticks=COUNT, data=TEXT))),
    "Pool": _POOL,
    "Pools": obj(pools=listed(ref("Pool"))),
    "PoolDefinition": {"type": "object", "description": "as the configuration file has it", "required": ["servers"]},
    "Posted": {"type": "object", "additionalProperties": COUNT},
    "Ready": obj(ready=FLAG, workers=COUNT),
    "Health": obj(status=TEXT, version=TEXT),
    "Reason": body(reason=REASON),
    "Promote": body(full={"type": "boolean", "description": "everybody, now"}, reason=REASON),
    "Start": body(
        canary={"description": "servers, a pool's definition, or the name of a pool", "type": ["array", "object", "string"]},
        version=TEXT | {"maxLength": 200},
        reason=REASON,
    ),
    "FlagContext": {
        "type": "object",
        "properties": {"context": obj(targetingKey=TEXT | {"minLength": 1})},
        "required": ["context"],
    },
    "Flag": obj(key=TEXT, value=FLAG, variant=TEXT, reason=TEXT, metadata=ANY),
    "Flags": obj(flags=listed(ref("Flag"))),
    "FlagError": obj(errorCode=TEXT, errorDetails=TEXT),
    "Weight": body(("weight",), weight={"type": "string", "pattern": _PERCENT, "description": "for example 0.5%"}, reason=REASON),
    "Goals": {"anyOf": [_EVENT, {"type": "array", "items": _EVENT, "maxItems": 1000}]},
}
