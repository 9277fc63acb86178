"""`canaryproxy demo`: a whole rollout in a minute, with real apps, the real proxy and real requests on loopback.

Called by the command line, which imports this package late. `scenario` says what happens, `story` makes it happen, `apps` and
`load` are its processes, `figures` judges how it ended, `view` shows it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from canaryproxy.cli.demo.scene import View
    from canaryproxy.cli.demo.story import Story


def main(scenario: str, *, plain: bool = False, port: int = 0, as_json: bool = False) -> int:
    """Exit code of the demo: 0 if the story ended as it should, 1 if not, 128 + number if a signal ended it.

    `port` is where the proxy serves, 0: any free one. Raises StartError when a process does not start. All processes have
    ended by then.
    """
    from rich.console import Console

    from canaryproxy.cli.demo.children import until_signal
    from canaryproxy.cli.demo.scenario import SCENARIOS
    from canaryproxy.cli.demo.story import Story
    from canaryproxy.cli.demo.view import JsonView, LiveView, PlainView

    console = Console(highlight=False)
    view: View
    if as_json:
        view = JsonView(sys.stdout)
    else:
        view = PlainView(sys.stdout) if plain or not LiveView.fits(console) else LiveView(console)
    try:
        return asyncio.run(until_signal(_told(Story(SCENARIOS[scenario], view, port))))
    except BrokenPipeError:
        # whoever read our lines has gone; the interpreter must not complain of it once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


async def _told(story: Story) -> int:
    return 0 if await story.tell() else 1
