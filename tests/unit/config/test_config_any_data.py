"""Whatever stands in a file: a configuration, or problems in plain words of one line each; never another error."""

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from example_files import all_options_on, write_files
from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.config.load import parse
from canaryproxy.config.schema import Config
from canaryproxy.errors import ConfigError

_WORDS = st.sampled_from(
    ["", "0", "-1", "5%", "1pp", "5m", "x y", "a\nb", "${A}", "v1", "*", "/", "http://a", "true", "\x1b[0m", "9" * 400]
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | _WORDS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_WORDS, inner, max_size=2),
    max_leaves=4,
)
_JARGON = re.compile(
    r"(?i)input should|valid (integer|string|tuple|dictionary|boolean)|value error|pydantic|not permitted|<class|Traceback"
)


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place of the data, sections and lists included."""
    below = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(place for key, value in below for place in places(value, (*path, key)))]


_DATA = yaml.safe_load(all_options_on())
_PLACES = places(_DATA)


@pytest.fixture(scope="module", autouse=True)
def _files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("example")
    write_files(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


def test_without_a_change_nothing_is_wrong() -> None:
    assert problems_of(yaml.safe_dump(_DATA)) == []


@given(
    changes=st.lists(st.tuples(st.sampled_from(_PLACES), _VALUES), max_size=4), extra=st.dictionaries(_WORDS, _VALUES, max_size=1)
)
@settings(max_examples=80, deadline=None)
def test_any_data(changes: list[tuple[tuple[Any, ...], Any]], extra: dict[str, Any]) -> None:
    data = copy.deepcopy(_DATA)
    for path, value in changes:
        section = data
        for key in path[:-1]:
            section = section[key] if key in places_of(section) else {}
        if path and path[-1] in places_of(section):
            section[path[-1]] = value
    data |= extra
    for problem in problems_of(yaml.safe_dump(data, allow_unicode=True)):
        assert "\n" not in problem
        assert problem.startswith("f:")
        assert not _JARGON.search(problem)


def problems_of(text: str) -> list[str]:
    """What is wrong; at least one problem where there is no configuration."""
    try:
        assert isinstance(parse(text, "f", {}), Config)
    except ConfigError as error:
        return list(map(str, error.problems)) or [""]
    return []


def places_of(section: Any) -> range | set[Any]:
    """Keys of a section, indexes of a list, nothing of anything else."""
    return range(len(section)) if isinstance(section, list) else set(section) if isinstance(section, dict) else set()
