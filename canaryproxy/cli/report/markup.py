"""HTML that cannot be injected into: text is escaped unless it is `Html`, and only `el` makes `Html`. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Final

_VOID: Final = frozenset({"meta", "br", "line", "path", "rect"})


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def el(name: str, /, *content: object, **attributes: object) -> Html:
    """An element. `class_` is the attribute class, `_` in other names is `-`; an attribute that is None or False is left out."""
    written = "".join(_attribute(key, value) for key, value in attributes.items() if value is not None and value is not False)
    if name in _VOID and not content:
        return Html(f"<{name}{written}/>")
    return Html(f"<{name}{written}>{join(content)}</{name}>")


def join(content: object) -> Html:
    """Elements and texts one after another, the texts escaped."""
    if content is None:
        return Html("")
    if isinstance(content, Html):
        return content
    if isinstance(content, str):
        return Html(escape(content))
    if isinstance(content, Iterable):
        return Html("".join(map(join, content)))
    return Html(escape(str(content)))


def _attribute(key: str, value: object) -> str:
    name = key.rstrip("_") if key.endswith("_") else key.replace("_", "-")
    name = "viewBox" if name == "viewbox" else "preserveAspectRatio" if name == "preserveaspectratio" else name
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'
