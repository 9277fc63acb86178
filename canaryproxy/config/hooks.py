"""Models of what is asked or told outside while a rollout goes on: gates, rollback triggers, notifications. Pure.

Parts of `config.schema`. The types are Flagger's (confirm-rollout and so on); what each of them means is said in `docs/hooks.md`.
A URL may be a secret as a whole (Slack's are): no message repeats one, people see its `place`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, WithJsonSchema

from canaryproxy.config.base import Model
from canaryproxy.config.names import FieldName, Name, is_host
from canaryproxy.config.quantities import Duration

#: Of a route: each of them may have a question or a message under way.
MAX_HOOKS = 16

#: Fields that the client itself writes, or that belong to the connection (RFC 9110 section 7.6.1).
_NOT_OURS = frozenset(
    {"connection", "content-length", "content-type", "expect", "host", "idempotency-key", "keep-alive", "te", "trailer"}
    | {"transfer-encoding", "upgrade"}
)
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\uffff]*")


class HookType(StrEnum):
    """When a hook is called. The first four are gates by the same names as `rollout.model.Gate`."""

    CONFIRM_ROLLOUT = "confirm_rollout"
    PRE_ROLLOUT = "pre_rollout"
    CONFIRM_STEP = "confirm_step"
    CONFIRM_PROMOTION = "confirm_promotion"
    ROLLBACK = "rollback"
    POST_ROLLOUT = "post_rollout"
    EVENT = "event"


#: A rollout waits for these.
GATES = (HookType.CONFIRM_ROLLOUT, HookType.PRE_ROLLOUT, HookType.CONFIRM_STEP, HookType.CONFIRM_PROMOTION)
#: These are told what was decided, from the outbox.
TOLD = (HookType.POST_ROLLOUT, HookType.EVENT)


class Format(StrEnum):
    """How a notification is written."""

    CLOUDEVENTS = "cloudevents"
    SLACK = "slack"
    TEAMS = "teams"


def _parse_url(value: Any) -> Any:
    text = value.strip() if isinstance(value, str) else ""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("this is not a URL; write for example https://ci.example.com/gate") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError("this is not a URL with http:// or https://; write for example https://ci.example.com/gate")
    if not is_host(host) or port == 0:
        raise ValueError("this URL has no valid host and port; write for example https://ci.example.com/gate")
    if parts.fragment or not text.isprintable() or " " in text:
        raise ValueError("this URL has what cannot be sent (a fragment, a space); remove it")
    return text


def _parse_value(value: Any) -> Any:
    if isinstance(value, str) and not _VALUE.fullmatch(value.strip()):
        raise ValueError("this value has a character that no header may have; remove it")
    return value


HookUrl = Annotated[
    str, BeforeValidator(_parse_url), WithJsonSchema({"type": "string", "pattern": r"^https?://.+|\$\{"})
]  # not quoted in messages
HeaderValue = Annotated[str, BeforeValidator(_parse_value)]


class Hook(Model):
    """One URL that is asked or told with POST."""

    type: HookType = Field(description=f"when it is called: {', '.join(HookType)}")
    url: HookUrl = Field(description="where it is posted to: https://host/path", repr=False)
    name: Name | None = Field(None, description="in the log and the status; by default its type, with a number if there are more")
    timeout: Duration = Field(10, gt=0, le=3600, description="of one try, from the connection to the whole answer")
    retries: int = Field(
        3, ge=0, le=100, description="tries again of a pre_rollout hook that fails, or of a question not answered"
    )
    interval: Duration = Field(5, gt=0, le=3600, description="between two rounds of questions of confirm and rollback hooks")
    headers: dict[FieldName, HeaderValue] = Field({}, description="sent along, for example Authorization", repr=False)
    metadata: dict[str, str] = Field({}, description="sent along in the body")
    format: Format = Field(Format.CLOUDEVENTS, description="of event and post_rollout: cloudevents, slack or teams")

    @property
    def place(self) -> str:
        """Where it goes, for people: no user, password, path or query, for each of them may be the secret."""
        parts = urlsplit(self.url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}"


def named(hooks: Iterable[Hook]) -> dict[str, Hook]:
    """The hooks by the names that people see; `mistakes` sees to it that no two are the same."""
    return dict(_with_names(hooks))


def _with_names(hooks: Iterable[Hook]) -> Iterator[tuple[str, Hook]]:
    """Each hook with its own name, else its type, with a number from the second of a type on."""
    seen: Counter[str] = Counter()
    for hook in hooks:
        seen[hook.type] += 1
        number = f"-{seen[hook.type]}" if seen[hook.type] > 1 else ""
        yield hook.name or f"{hook.type}{number}", hook


def mistakes(hooks: tuple[Hook, ...]) -> Iterator[tuple[str, str, str]]:
    """(place below `hooks`, what is wrong, what to do) for what no single field is wrong about."""
    if len(hooks) > MAX_HOOKS:
        yield "", f"has {len(hooks)} hooks", f"keep at most {MAX_HOOKS}"
    names: dict[str, int] = {}
    for index, (name, hook) in enumerate(_with_names(hooks)):
        if name in names:
            yield f"[{index}].name", f"{name!r} is the name of hooks[{names[name]}] too", "give each hook a name of its own"
        names.setdefault(name, index)
        if "format" in hook.model_fields_set and hook.type not in TOLD:
            yield f"[{index}].format", f"{hook.type} hooks are asked in JSON, not told", "remove format"
        if "interval" in hook.model_fields_set and (hook.type in TOLD or hook.type is HookType.PRE_ROLLOUT):
            yield f"[{index}].interval", f"{hook.type} hooks are not asked again and again", "remove interval"
        for header in hook.headers:
            if header.lower() in _NOT_OURS:
                yield f"[{index}].headers.{header}", "is written by the proxy itself", "remove it"
