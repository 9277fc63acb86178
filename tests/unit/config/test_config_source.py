# ruff: noqa: E501 - a message stands in one piece, as people would search for it
"""YAML to data: text stays text, places know their line, the environment is put in, and mistakes of YAML are said in words."""

import pytest

from canaryproxy.config.source import Mark, Unread, read, spell
from canaryproxy.errors import ConfigError


def complaints(text: str, **environ: str) -> list[str]:
    source = read(text, "f.yaml", environ)
    return [f"{source.mark(problem.where).line} {problem}" for problem in source.problems]


def test_scalars_stay_as_written() -> None:
    source = read('{version: 1.10, canary: no, when: 2024-01-01, octal: 010, none: ~, nothing: , text: "null"}', "f", {})
    assert source.data == {
        "version": "1.10",
        "canary": "no",
        "when": "2024-01-01",
        "octal": "010",
        "none": None,
        "nothing": None,
        "text": "null",
    }


def test_marks_are_those_of_keys_and_items() -> None:
    source = read("a:\n  b:\n    - x\n    - {c: 1}\n'q r': 1\n", "f", {})
    assert source.marks == {
        "a": Mark(1, 1),
        "a.b": Mark(2, 3),
        "a.b[0]": Mark(3, 7),
        "a.b[1]": Mark(4, 7),
        "a.b[1].c": Mark(4, 8),
        "'q r'": Mark(5, 1),
    }
    assert source.mark("a.b[1].missing.too") == Mark(4, 7)
    assert source.mark("nowhere") == Mark(1, 1)


def test_a_place_is_spelled_as_in_the_file() -> None:
    assert spell(("routes", "v1.10", "steps", 0, "weight")) == "routes.v1.10.steps[0].weight"
    assert spell(("a\nb",)) == "'a\\nb'"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${A}", "1"),
        ("x-${A}-${A}", "x-1-1"),
        ("${NONE:-d}", "d"),
        ("${EMPTY:-d}", "d"),
        ("${A:-d}", "1"),
        ("${NONE:-}", None),
        ("${EMPTY}", None),
        ("'${EMPTY}'", ""),
        ("$${A} costs $5", "${A} costs $5"),
        ("${REF}", "${A}"),
    ],
)
def test_substitution(text: str, value: str | None) -> None:
    source = read(f"k: {text}", "f", {"A": "1", "EMPTY": "", "REF": "${A}"})
    assert source.problems == []
    assert source.data == {"k": value}


def test_unset_and_broken_substitutions_are_problems_of_their_place() -> None:
    text = "a: ${NOPE}\nb:\n  - x\n  - ${A-b}\n"
    assert complaints(text) == [
        "1 a: the environment variable NOPE is not set; set it, or write ${NOPE:-default}",
        "4 b[1]: '${A-b}' has a ${ that is no substitution; write ${NAME}, ${NAME:-default}, or $${ for the characters themselves",
    ]
    assert read(text, "f", {}).data == {"a": Unread, "b": ["x", Unread]}


def test_a_key_twice_is_a_problem() -> None:
    assert complaints("a: 1\nb:\n  c: 1\n  c: 2\na: 3\n") == [
        "1 a: is written again in line 5; keep one of the two",
        "3 b.c: is written again in line 4; keep one of the two",
    ]


def test_anchors_and_merges() -> None:
    source = read("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\nc: *a\nd:\n  <<: [*a, {z: 4}]\n", "f", {})
    assert source.problems == []
    assert source.data == {
        "a": {"x": "1", "y": "2"},
        "b": {"y": "3", "x": "1"},
        "c": {"x": "1", "y": "2"},
        "d": {"x": "1", "y": "2", "z": "4"},
    }
    assert source.mark("b.x") == Mark(1, 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [*a]", "1 a[0]: an alias that contains itself; write the values out"),
        ("a: &a\n  <<: *a", "2 a.<<: merges something that is not a section; write <<: *name of an anchored section"),
        ("a:\n  <<: x", "2 a.<<: merges something that is not a section; write <<: *name of an anchored section"),
        (
            "a: !!python/name:os.system x",
            "1 a: the tag 'tag:yaml.org,2002:python/name:os.system' is not supported; write a plain value",
        ),
        ("a:\n  ? [x]\n  : y", "1 a: a key that is not plain text; write key: value"),
    ],
)
def test_yaml_that_a_configuration_does_not_have(text: str, message: str) -> None:
    assert complaints(text) == [message]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a: b: c",
            "f.yaml:1:5: not valid YAML: a second ': ' on this line, or wrong indentation; put text that has ': ' in quotes",
        ),
        ("a:\n\tb: 1", "f.yaml:2:1: not valid YAML: a tab where indentation is expected; indent with spaces"),
        (
            "a:\n  b: 1\n c: 2",
            "f.yaml:3:2: not valid YAML: wrong indentation, or a list and keys mixed; indent the keys of one section alike",
        ),
        ("a: 'x", "f.yaml:1:6: not valid YAML: quotes that are not closed; close them"),
        (
            "a: [1, 2",
            "f.yaml:1:9: not valid YAML: a [ or { that is not closed; close it, and put values that have { or [ in quotes",
        ),
        ("a: 1\nb\nc: 2", "f.yaml:3:1: not valid YAML: a line without ': ' where a key is expected; write key: value"),
        ("a: *x", "f.yaml:1:4: not valid YAML: an alias (*name) before its anchor (&name); write the anchor above it"),
        ("a: 1\n---\nb: 2", "f.yaml:2:1: not valid YAML: a second document after ---; keep one document in a file"),
        ("[" * 1000, "f.yaml: sections and lists are nested too deeply; look for brackets that are not closed"),
        ("a: @x", "f.yaml:1:4: not valid YAML: a value that begins with @; put it in quotes"),
        ("a: 1\nb: \x00", "f.yaml:2:4: character U+0000 is not allowed in YAML; remove it"),
    ],
)
def test_text_that_is_not_yaml(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text, "f.yaml", {})
    assert str(caught.value) == message


def test_an_empty_text_has_no_data() -> None:
    assert read("# nothing\n", "f", {}).data is None
