"""What there is to show of a story at one moment. Filled by `story`, drawn by `view`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from canaryproxy.cli.demo.figures import Tally
from canaryproxy.cli.demo.scenario import Scenario
from canaryproxy.cli.text import Answer


@dataclass(slots=True)
class Scene:
    """The story so far: `now` in monotonic seconds, `elapsed` since its start; `decisions` are (elapsed, kind, sentence).

    The oldest decision is the first.
    """

    scenario: Scenario
    stage: str = "starting two apps and the proxy"
    now: float = 0.0
    elapsed: float = 0.0
    status: Answer | None = None
    decisions: list[tuple[float, str, str]] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    faulty_since: float | None = None


class View(Protocol):
    """Shows a story while it goes on, then what it came to."""

    def show(self, scene: Scene) -> None:
        """Show the scene as it is now; called at every change and about four times a second."""

    def close(self) -> None:
        """Give the terminal back; called once, before `end` and also when there is none."""

    def end(self, figures: list[tuple[str, str]], objections: list[str]) -> None:
        """Show the figures, and why it did not end as it should (empty: it did)."""
