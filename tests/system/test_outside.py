"""A rollout that a real Prometheus has a say in: it scrapes the product itself, and an app with a number for each version."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from harness import Product, Status, free_port, until_answered

pytestmark = pytest.mark.system

#: A version that would end the string in a query that it was just pasted into.
VERSION = '2.0"} or vector(1) or heat{version="\\'


class App:
    """What an application exports: the gauge `heat` of each version."""

    def __init__(self) -> None:
        self.port, self.heat = free_port(), {"v1": 10.0, VERSION: 10.5}

    async def page(self, _: web.Request) -> web.Response:
        escaped = {version.replace("\\", r"\\").replace('"', r"\""): heat for version, heat in self.heat.items()}
        lines = [f'heat{{version="{version}"}} {heat}' for version, heat in escaped.items()]
        return web.Response(text="# TYPE heat gauge\n" + "\n".join(lines) + "\n")


class Prometheus:
    """The server in a folder of its own, on the loopback only; it looks every 200 ms."""

    def __init__(self, program: Path, folder: Path, targets: dict[str, int]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        jobs = [{"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]} for name, port in targets.items()]
        config = {"global": {"scrape_interval": "200ms", "scrape_timeout": "200ms"}, "scrape_configs": jobs}
        folder.mkdir()
        (folder / "prometheus.yml").write_text(json.dumps(config))
        places = (f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}")
        listen = f"--web.listen-address=127.0.0.1:{self.port}"
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen((program, *places, listen), stdout=log, stderr=log)

    def kill(self) -> None:
        """SIGKILL, if it is still there."""
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()


@asynccontextmanager
async def exporting(app: App) -> AsyncIterator[None]:
    served = web.Application()
    served.router.add_get("/metrics", app.page)
    runner = web.AppRunner(served, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", app.port).start()
    try:
        yield
    finally:
        await runner.cleanup()


def metrics(url: str) -> dict[str, Any]:
    often = {"interval": "1s", "timeout": "1s", "window": "1s", "max_age": "2s", "successes": 1}
    served = 'sum(rate(canaryproxy_requests_total{route="{{ route }}", variant="{{ variant }}", outcome="c2xx"}[{{ window }}]))'
    return {
        "heat": {"prometheus": {"url": url, "query": 'heat{version="{{ version }}"}'}, "max_increase": "20%", **often},
        "served": {"prometheus": {"url": url, "query": served}, "min": 1, "max_drop": "80%", **often},
        "every": {"prometheus": {"url": url, "query": "heat"}, "max": 1, "required": False, **often},
    }


async def evidence(product: Product, metric: str, wanted: Callable[[Status], bool]) -> Status:
    """What is found of a metric, as soon as it is as wanted."""

    async def look() -> Status | None:
        found: Status = (await product.status())["evidence"].get(metric) or {"outcome": "none"}
        return found if found["outcome"] != "none" and wanted(found) else None

    return await until_answered(look, 12)


async def test_a_real_prometheus_can_stop_a_rollout_and_its_death_cannot_pass_one(
    product: Product, peer: Callable[[str], Path], tmp_path: Path
) -> None:
    app = App()
    prometheus = Prometheus(peer("prometheus"), tmp_path / "prometheus", {"product": product.admin_port, "app": app.port})
    try:
        product.configure({"metrics": metrics(prometheus.url)}, pools={"v2": {"version": VERSION}})
        async with exporting(app):
            await product.start()
            await product.verb("start")
            await product.set_weight("50%")
            await product.verb("resume")
            async with product.traffic(rate=100):
                await is_stopped(product, app)
                await is_inconclusive(product, prometheus)
            rolled_back = await product.verb("rollback")
            assert (rolled_back["phase"], rolled_back["applied_by"], rolled_back["saved"]) == ("rolled_back", 2, True)
    finally:
        prometheus.kill()


async def is_stopped(product: Product, app: App) -> None:
    """Both metrics are good at first; when the app says that the new version is hot, the third measurement pauses."""
    served, heat = await asyncio.gather(
        evidence(product, "served", lambda one: one["outcome"] == "pass"),
        evidence(product, "heat", lambda one: one["outcome"] == "pass"),
    )
    assert min(served["numbers"]["stable"], served["numbers"]["canary"]) > 10, "requests a second, by our own counters"
    assert (heat["numbers"]["stable"], heat["numbers"]["canary"]) == (10, 10.5)
    every = (await product.status())["evidence"]["every"]
    assert "the query gives 2 series" in every["sentence"]
    app.heat[VERSION] = 12.5
    paused = await product.status_with(lambda status: status["phase"] == "paused")
    assert "heat: canary 12.5, stable 10, at most 12 allowed, 3 of 3 measurements in a row" in paused["reason"]
    assert paused["weight_percent"] == 25


async def is_inconclusive(product: Product, prometheus: Prometheus) -> None:
    """Without it nothing is known: what was measured holds no longer, so no step can follow from it."""
    prometheus.kill()
    gone = await evidence(
        product, "heat", lambda one: "nothing fresh" in one["sentence"] and "cannot be asked" in one["numbers"]["error"]
    )
    assert (gone["outcome"], gone["action"]) == ("inconclusive", "continue")
    assert (await product.verb("resume"))["phase"] == "progressing", "silence is no harm either"
