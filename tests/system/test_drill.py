"""The drill as a user runs it: real processes, real rollbacks, within the limits, and nothing of the user's is touched.

And the report of a rollout that is running: what the API gives is enough for it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness import Product, left_behind

pytestmark = pytest.mark.system

DRILL = (sys.executable, "-m", "canaryproxy", "drill")


def test_rollbacks_are_rehearsed_and_nothing_of_the_users_is_touched(tmp_path: Path) -> None:
    work, temporary = tmp_path / "work", tmp_path / "temporary"
    work.mkdir()
    temporary.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as users_own:
        users_own.setblocking(False)
        environ = os.environ | {"TMPDIR": str(temporary), "CANARYPROXY_TOKEN": "the-users-own"}
        environ["CANARYPROXY_ADMIN"] = f"http://127.0.0.1:{users_own.getsockname()[1]}"
        parts = [word for name in ("errors", "controller", "state") for word in ("--only", name)]
        done = subprocess.run(
            (*DRILL, *parts, "--repeat", "1", "--limit-ms", "5000", "--json"),
            cwd=work, env=environ, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        with pytest.raises(BlockingIOError):
            users_own.accept()
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    found = json.loads(done.stdout)
    assert found["passed"]
    for rehearsal in found["rehearsals"]:
        assert rehearsal["skipped"] is None
        assert [len(measured["ms"]) for measured in rehearsal["measured"]] == [1] * len(rehearsal["measured"])
    by_name = {rehearsal["name"]: rehearsal for rehearsal in found["rehearsals"]}
    assert by_name["errors"]["users_hurt"][0] > 0
    assert by_name["state"]["users_hurt"] == [0]
    assert left_behind(temporary) == []
    assert [*temporary.iterdir(), *work.iterdir()] == []


def test_a_signal_ends_the_drill_and_all_its_processes(tmp_path: Path) -> None:
    process = subprocess.Popen(
        DRILL, env=os.environ | {"TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 20
    while not any("canaryproxy run" in line for line in left_behind(tmp_path)):
        assert time.monotonic() < end, "the proxy did not start"
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, complaint = process.communicate(timeout=30)
    assert (process.returncode, out, complaint) == (128 + signal.SIGINT, "", "")
    assert left_behind(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


async def test_a_running_rollout_is_reported(product: Product) -> None:
    product.configure()
    await product.start()
    async with product.traffic():
        await asyncio.to_thread(product.admin.post, product.admin.route("shop", "start"), {"reason": "<b>try</b>"})
        await product.status_with(lambda now: now["evidence"] and now["users"]["exposed"])
        await asyncio.to_thread(product.admin.post, product.admin.route("shop", "rollback"), {"reason": "<b>enough</b>"})
    code, out, complaint = await product.cli("report", "--config", str(product.file), "--format", "html")
    assert (code, complaint) == (0, "")
    assert "&lt;b&gt;enough&lt;/b&gt;" in out
    assert "<b>enough" not in out
    code, text, complaint = await product.cli("report", "--config", str(product.file), "--json")
    live = json.loads(text)
    assert (live["phase"], live["new"], [rung["name"] for rung in live["rungs"]]) == (
        "rolled_back",
        "v2",
        ["step 1 of 1", "bake"],
    )
    assert live["rungs"][0]["planned"] == 600
    assert live["requests"]["canary"][0] > 0
    counted = live.pop("users")["exposed"]
    code, text, complaint = await product.cli("report", "--state", str(product.state), "--json")
    assert (code, complaint) == (0, "")
    kept = json.loads(text)
    assert 0 < kept.pop("users")["exposed"] <= counted, "who came in the rollback's own second is in the proxy's count alone"
    assert kept == live
