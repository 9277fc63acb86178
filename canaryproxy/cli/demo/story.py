"""One story from its first process to its figures. Called by `main`; asyncio, in the demo's own process.

apps, proxy and users are real processes; the rollout is started and watched through the admin API, as an operator would do it.
Whatever ends the story, the processes end in the opposite order of their start, and the folder goes last.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from canaryproxy.cli.client import Admin, UnreachableError
from canaryproxy.cli.demo.children import Child, child, start_proxy
from canaryproxy.cli.demo.figures import Ending, objections, summary
from canaryproxy.cli.demo.scenario import AFTERMATH, ANSWER_LIMIT, BASELINE, RATE, ROUTE, TIME_LIMIT, Fault, Scenario, config_text
from canaryproxy.cli.demo.scene import Scene, View
from canaryproxy.clock import SystemClock

_LOOK_EVERY = 0.25
#: Seconds without the admin API after which the demo gives up; a controller that was restarted is back sooner.
_SILENCE_LIMIT = 10.0
#: Seconds for a child to end by itself once asked: the users wait for their last answers, the proxy drains.
_LOAD_PATIENCE = ANSWER_LIMIT + 4.0
_APP_PATIENCE = 2.0


class Story:
    """One telling: the scene as it changes, and the processes that make it."""

    def __init__(self, scenario: Scenario, view: View, port: int = 0) -> None:
        self._scenario, self._view, self._port = scenario, view, port
        self._clock = SystemClock()
        self._began = self._clock.monotonic()
        self._scene = Scene(scenario)
        self._ports: dict[str, int] = {}
        self._children: list[Child] = []
        self._admin: Admin
        self._heard = self._began

    async def tell(self) -> bool:
        """Whether the story ended as it should. Raises StartError when a process does not start or ends too soon."""
        try:
            ending = await self._play()
        finally:
            self._view.close()
        why_not = objections(self._scenario, ending, self._scene.tally)
        took = (ending.at or self._clock.monotonic()) - self._began
        self._view.end(summary(self._scenario, ending, self._scene.tally, took), why_not)
        return not why_not

    async def _play(self) -> Ending:
        self._show()
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="canaryproxy-demo-", ignore_cleanup_errors=True)))
            url = await self._start(stack, folder)
            self._scene.stage = f"{RATE} requests/s to {url}, all on v1"
            await self._watch(until=self._clock.monotonic() + BASELINE)
            await asyncio.to_thread(self._admin.post, self._admin.route(ROUTE, "start"), {})
            self._scene.stage = ""
            ending = await self._watch(until=self._began + TIME_LIMIT, ended=("rolled_back", "promoted"))
            self._scene.stage = "looking on a little longer"
            await self._watch(until=self._clock.monotonic() + AFTERMATH)
        return ending

    # --- Processes ---

    async def _start(self, stack: AsyncExitStack, folder: Path) -> str:
        """Start apps, proxy and users; the URL under which the proxy serves."""
        for version, fault in (("v1", Fault.NONE), ("v2", self._scenario.fault)):
            hear = partial(self._hear_app, version)
            module = ("canaryproxy.cli.demo.apps", version, fault, str(self._scenario.fault_after))
            app = await stack.enter_async_context(child(version, *module, on_line=hear, patience=_APP_PATIENCE))
            await app.until_ready(lambda version=version: version in self._ports)  # type: ignore[misc]
            self._children.append(app)
        text = config_text(str(folder), self._port, self._ports["v1"], self._ports["v2"])
        proxy, port, self._admin = await start_proxy(stack, folder, text)
        users = child("users", "canaryproxy.cli.demo.load", str(port), on_line=self._hear_load, patience=_LOAD_PATIENCE)
        sending = await stack.enter_async_context(users)
        await sending.until_ready(lambda: bool(self._scene.tally.load))
        self._children += [proxy, sending]
        return f"http://127.0.0.1:{port}"

    def _hear_app(self, version: str, line: str) -> None:
        told = json.loads(line)
        if "port" in told:
            self._ports[version] = told["port"]
            return
        self._scene.tally.hear_app(version, told)
        if (first := told.get("first_fault")) is not None and self._scene.faulty_since is None:
            self._scene.faulty_since = first - self._began

    def _hear_load(self, line: str) -> None:
        self._scene.tally.hear_load(json.loads(line))

    # --- Watching ---

    async def _watch(self, until: float, ended: tuple[str, ...] = ()) -> Ending:
        """Look and show until that moment (monotonic), or until the rollout is in one of the phases."""
        phase = ""
        while self._clock.monotonic() < until:
            for running in self._children:
                if running.exit_code is not None:
                    raise await running.failure()
            phase = await self._look()
            self._show()
            if phase in ended:
                seen = self._clock.monotonic()
                return Ending(phase, self._began + self._scene.decisions[-1][0], seen)
            await asyncio.sleep(_LOOK_EVERY)
        return Ending(phase)

    async def _look(self) -> str:
        """Ask the admin API; the rollout's phase."""
        try:
            status = await asyncio.to_thread(self._admin.get, self._admin.route(ROUTE))
            answer = await asyncio.to_thread(self._admin.get, self._admin.route(ROUTE, "decisions") + "?limit=50")
        except UnreachableError:
            if self._clock.monotonic() - self._heard > _SILENCE_LIMIT:
                raise
            return ""
        self._heard = self._clock.monotonic()
        self._scene.status = status
        skew = self._heard - self._began - self._clock.wall()
        # a verdict is told again, in brackets, by the change that it leads to
        made = [one for one in reversed(answer["decisions"]) if one["kind"] != "verdict"]
        self._scene.decisions = [(one["at"] + skew, one["kind"], one["sentence"]) for one in made]
        return str(status["phase"])

    def _show(self) -> None:
        self._scene.now = self._clock.monotonic()
        self._scene.elapsed = self._scene.now - self._began
        self._view.show(self._scene)
