"""YAML text to plain data in which every place knows its line. Pure: the environment is an argument; `config.load` calls it.

Scalars stay the text that was written (`version: 1.10` is "1.10", `canary: no` is a name): the models know which type they
want, YAML would guess. Only null is recognised. `${NAME}` and `${NAME:-default}` in a value are replaced from the
environment (the default also where the variable is empty, as in a shell); `$${` stands for `${`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

from canaryproxy.errors import ConfigError, Problem

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_STRING_TAGS = frozenset({"tag:yaml.org,2002:" + kind for kind in ("str", "int", "float", "bool", "null", "timestamp")})
_SUBSTITUTION = re.compile(
    r"(?P<escaped>\$\$\{)|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<or>:-(?P<default>[^}]*))?\}|(?P<bad>\$\{)"
)


class Unread:
    """Stands (the class itself) for a value that could not be read; its problem has been reported already."""


class Mark(NamedTuple):
    """A place in the file; the first line and column are 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Source:
    """A file's data, the mark of each of its places by path, and what was wrong with it as YAML (`where` is a path)."""

    data: Any
    marks: dict[str, Mark] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def mark(self, path: str) -> Mark:
        """The mark of `path` or, where the file does not have it, of the nearest section around it."""
        while path and path not in self.marks:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.marks.get(path, Mark(1, 1))


def spell(place: Iterable[str | int]) -> str:
    """`("routes", "shop", "rollout", "steps", 0)` -> `routes.shop.rollout.steps[0]`."""
    text = ""
    for part in place:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if part.isprintable() and " " not in part else repr(part))
    return text


def read(text: str, file: str, environ: Mapping[str, str]) -> Source:
    """The data of a YAML text; raises ConfigError only if it is not YAML at all, then `where` is `file:line:column`."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        raise ConfigError([_syntax_problem(error, file)]) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = f"{file}:{before.count(chr(10)) + 1}:{error.position - before.rfind(chr(10))}"
        raise ConfigError([Problem(place, f"character U+{error.character:04X} is not allowed in YAML", "remove it")]) from None
    except RecursionError:
        raise ConfigError(
            [Problem(file, "sections and lists are nested too deeply", "look for brackets that are not closed")]
        ) from None
    source = Source(None)
    return Source(_Walk(source, environ).value(root, (), ()) if root else None, source.marks, source.problems)


#: PyYAML's words -> ours; the first that begins so.
_SYNTAX = (
    ("mapping values are not allowed", "a second ': ' on this line, or wrong indentation", "put text that has ': ' in quotes"),
    ("found character '\\t'", "a tab where indentation is expected", "indent with spaces"),
    ("could not find expected ':'", "a line without ': ' where a key is expected", "write key: value"),
    ("found unexpected end of stream", "quotes that are not closed", "close them"),
    ("expected <block end>", "wrong indentation, or a list and keys mixed", "indent the keys of one section alike"),
    ("expected ',' or", "a [ or { that is not closed", "close it, and put values that have { or [ in quotes"),
    ("found undefined alias", "an alias (*name) before its anchor (&name)", "write the anchor above it"),
    ("but found another document", "a second document after ---", "keep one document in a file"),
    ("found character '@'", "a value that begins with @", "put it in quotes"),
    ("found character '`'", "a value that begins with `", "put it in quotes"),
    ("found character '%'", "a value that begins with %", "put it in quotes"),
)


def _syntax_problem(error: yaml.MarkedYAMLError, file: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    place = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else file
    for start, what, hint in _SYNTAX:
        if (error.problem or "").startswith(start):
            return Problem(place, f"not valid YAML: {what}", hint)
    return Problem(place, f"not valid YAML: {error.problem or error.context}", "look at this line and the one before it")


class _Walk:
    """Turns YAML nodes into data; writes marks and problems into `source` as it goes."""

    def __init__(self, source: Source, environ: Mapping[str, str]) -> None:
        self._marks, self._problems, self._environ = source.marks, source.problems, environ

    def value(self, node: yaml.Node, place: tuple[str | int, ...], around: tuple[yaml.Node, ...]) -> Any:
        if node in around:
            return self._unread(place, "an alias that contains itself", "write the values out")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, place)
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self._mark((*place, index), item)
            return [self.value(item, (*place, index), (*around, node)) for index, item in enumerate(node.value)]
        return self._mapping(node, place, (*around, node))

    def _mapping(self, node: yaml.Node, place: tuple[str | int, ...], around: tuple[yaml.Node, ...]) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key, item in self._own_and_merged(node, place, around):
            data[key] = self.value(item, (*place, key), around)
        return data

    def _own_and_merged(
        self, node: yaml.Node, place: tuple[str | int, ...], around: tuple[yaml.Node, ...]
    ) -> list[tuple[str, yaml.Node]]:
        """The entries of a mapping, then those that `<<: *anchor` adds to it."""
        pairs: dict[str, yaml.Node] = {}
        merged: list[yaml.Node] = []
        for key, item in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                self._mark((*place, "<<"), key)
                merged += item.value if isinstance(item, yaml.SequenceNode) else [item]
            elif not isinstance(key, yaml.ScalarNode):
                self._unread(place, "a key that is not plain text", "write key: value")
            elif key.value in pairs:
                again = key.start_mark.line + 1
                self._report((*place, key.value), f"is written again in line {again}", "keep one of the two")
            else:
                pairs[key.value] = item
                self._mark((*place, key.value), key)
        for section in merged:
            if section in around or not isinstance(section, yaml.MappingNode):
                self._unread((*place, "<<"), "merges something that is not a section", "write <<: *name of an anchored section")
                continue
            for key, item in self._own_and_merged(section, (*place, "<<"), (*around, section)):
                if key not in pairs:
                    pairs[key] = item
                    self._marks[spell((*place, key))] = self._marks[spell((*place, "<<", key))]
        return list(pairs.items())

    def _scalar(self, node: yaml.ScalarNode, place: tuple[str | int, ...]) -> Any:
        if node.tag not in _STRING_TAGS:
            return self._unread(place, f"the tag {node.tag!r} is not supported", "write a plain value")
        text = self._substituted(node.value, place)
        return None if node.style is None and text in _NULLS else text

    def _substituted(self, text: str, place: tuple[str | int, ...]) -> Any:
        missing = False

        def replacement(match: re.Match[str]) -> str:
            nonlocal missing
            name = match["name"]
            if match["escaped"]:
                return "${"
            if match["bad"]:
                self._report(
                    place,
                    f"{text!r} has a ${{ that is no substitution",
                    "write ${NAME}, ${NAME:-default}, or $${ for the characters themselves",
                )
            elif name in self._environ and (self._environ[name] or not match["or"]):
                return self._environ[name]
            elif match["or"]:
                return match["default"]
            else:
                self._report(place, f"the environment variable {name} is not set", f"set it, or write ${{{name}:-default}}")
            missing = True
            return ""

        result = _SUBSTITUTION.sub(replacement, text)
        return Unread if missing else result

    def _mark(self, place: tuple[str | int, ...], node: yaml.Node) -> None:
        self._marks[spell(place)] = Mark(node.start_mark.line + 1, node.start_mark.column + 1)

    def _report(self, place: tuple[str | int, ...], what: str, hint: str) -> None:
        self._problems.append(Problem(spell(place), what, hint))

    def _unread(self, place: tuple[str | int, ...], what: str, hint: str) -> Any:
        self._report(place, what, hint)
        return Unread
