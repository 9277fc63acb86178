"""The paths of the journals: which rollouts have one, and its blocks (`canaryproxy decisions --replay`). Called by `app`."""

from __future__ import annotations

import base64

from aiohttp import web

from canaryproxy.admin.handlers import number
from canaryproxy.admin.paths import Access, Answer, Path
from canaryproxy.control.controller import Controller

#: Blocks in one answer: about 2 kB each.
_LARGEST_PAGE = 500


class JournalHandlers:
    """The paths' functions."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def paths(self) -> list[Path]:
        """What it serves."""
        at, number_of = "/api/v1/routes/{route}/journal", {"type": "integer", "minimum": 0}
        paging = {
            "limit": number_of | {"description": f"at most so many; never more than {_LARGEST_PAGE}"},
            "after": number_of | {"description": "only those with a larger id"},
        }
        rollouts, blocks = Answer("the rollouts, newest first", "Journals"), Answer("blocks in their order", "Blocks")
        return [
            Path(
                *("GET", at, self.rollouts, Access.READ, "journals", "Rollouts of which there is a journal."),
                {200: rollouts},
                errors=(503,),
            ),
            Path(
                *("GET", f"{at}/{{rollout}}", self.blocks, Access.READ, "journal", "What a rollout was judged on."),
                {200: blocks},
                query=paging,
                errors=(503,),
            ),
        ]

    async def rollouts(self, request: web.Request) -> web.Response:
        """The rollouts of which there is a journal, the newest first."""
        return web.json_response({"rollouts": await self._controller.rollouts(request.match_info["route"])})

    async def blocks(self, request: web.Request) -> web.Response:
        """The blocks of one of them in their order (`analysis.record`, in base64); `limit` and `after` page through it."""
        name, rollout = request.match_info["route"], request.match_info["rollout"]
        limit, after = min(number(request, "limit", 100), _LARGEST_PAGE), number(request, "after", 0)
        found = await self._controller.journal(name, rollout, limit, after)
        blocks = [
            {"id": n, "first": block.first, "ticks": block.ticks, "data": base64.b64encode(block.data).decode()}
            for n, block in found
        ]
        return web.json_response({"rollout": rollout, "blocks": blocks})
