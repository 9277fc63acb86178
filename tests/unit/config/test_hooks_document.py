"""`docs/hooks.md` says what the code says: types, defaults, and examples that load."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from canaryproxy.config.hooks import Hook, HookType
from canaryproxy.config.quantities import format_duration

DOCUMENT = (Path(__file__).parents[3] / "docs" / "hooks.md").read_text(encoding="utf-8")


def rows(heading: str) -> dict[str, list[str]]:
    """The cells of the table below a heading, by the name in the first one."""
    section = DOCUMENT.split(f"## {heading}\n")[1].split("\n#")[0]
    lines = re.findall(r"^\| `(\w+)` \|(.*)\|$", section, re.MULTILINE)
    return {name: [cell.strip() for cell in rest.split("|")] for name, rest in lines}


def test_every_type_and_every_option_with_its_default_is_there() -> None:
    assert set(rows("Types")) == {kind.value for kind in HookType}
    options = rows("Options")
    assert {"type", *options} == set(Hook.model_fields)
    plain = Hook.model_validate({"type": "event", "url": "http://a/"})
    assert options["timeout"][0] == format_duration(plain.timeout)
    assert options["interval"][0] == format_duration(plain.interval)
    assert (options["retries"][0], options["format"][0]) == (str(plain.retries), plain.format.value)


def test_the_examples_load() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        data = yaml.safe_load(re.sub(r"\$\{\w+\}", "http://example.com/", block))
        hooks = data["hooks"] if "hooks" in data else data["routes"]["shop"]["hooks"]
        assert [Hook.model_validate(hook) for hook in hooks]
