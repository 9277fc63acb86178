"""How it begins and ends: starts that cannot be, and stops that lose nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import pytest
from harness import Product, free_port, merged, until
from reading import refuses, versions
from traffic import Client

from canaryproxy.store.sqlite import SqliteStore

pytestmark = pytest.mark.system


async def test_sigterm_lets_requests_in_hand_finish_and_takes_no_new_ones(product: Product) -> None:
    await product.start()
    await product.verb("start")
    clients = [Client(product.port) for _ in range(6)]
    slow = [asyncio.create_task(client.get("/slow/1.5", f"user-{number}")) for number, client in enumerate(clients)]
    await until(lambda: sum(len(origin.paths) for origin in product.origins.values()) == len(clients))
    product.signal(signal.SIGTERM)
    told = time.monotonic()
    await until(lambda: refuses(product.port), 0.5)
    for _ in range(20):
        product.signal(signal.SIGTERM)
        await asyncio.sleep(0.005)
    ready, _ = await asyncio.to_thread(product.admin.exchange, "GET", "/readyz")
    assert ready == 503
    assert (await product.verb("rollback"))["phase"] == "rolled_back"
    assert [request.status for request in await asyncio.gather(*slow)] == [200] * 6
    assert await product.exit_code() == 0
    assert time.monotonic() - told < 3
    assert product.said("stopping") == 1
    assert refuses(product.admin_port)
    for client in clients:
        await client.close()


async def test_sigterm_gives_up_what_does_not_end_in_time(product: Product) -> None:
    """A request that goes on and on in one worker, and the other worker hangs."""
    product.configure(timeouts={"drain": "0.5s"})
    await product.start()
    client = Client(product.port)
    slow = asyncio.create_task(client.get("/slow/20"))
    await until(lambda: product.origins["v1"].paths)
    busy = product.worker_of(client.local_port)
    os.kill(next(pid for pid in product.workers if pid != busy), signal.SIGSTOP)
    began = time.monotonic()
    product.signal(signal.SIGTERM)
    assert await product.exit_code() == 0
    assert time.monotonic() - began < 5
    assert (await slow).failed


@pytest.mark.parametrize("processes", [1, 2, 4])
async def test_sigterm_during_the_start_leaves_nothing(product: Product, processes: int) -> None:
    product.launch()
    await until(lambda: len(product.processes()) >= processes)
    product.signal(signal.SIGTERM)
    assert await product.exit_code() in (0, -signal.SIGTERM)
    assert product.said("did not come up") == 0


# --- What does not start ---


async def refusal(product: Product, file: Path) -> str:
    """The one line that a start with this configuration ends with."""
    code, out, complaints = await product.cli("run", "--config", str(file), environment=product.mark)
    assert (code, out, complaints.count("\n")) == (1, "", 1), complaints
    return complaints


async def test_a_start_that_cannot_be_is_one_clear_line(product: Product) -> None:
    """Each with a cause of its own, beside a product that runs; nothing is left of them (the fixture looks)."""
    folder, known = product.folder, product.state.with_name("known.db")
    for name, mode, content in (("open", 0o644, b"secret\n"), ("empty", 0o600, b""), ("damaged.db", 0o600, b"no database" * 500)):
        (folder / name).write_bytes(content)
        (folder / name).chmod(mode)
    store = SqliteStore(known)
    store.save("shop", {"route": "shop", "phase": "elsewhere"}, None)
    store.close()
    await product.start()
    causes: dict[str, dict[str, object]] = {
        "is in use by another program": {"admin": {"listen": f"127.0.0.1:{free_port()}"}},
        f"127.0.0.1:{product.admin_port}: is in use": {"listen": f"127.0.0.1:{free_port()}"},
        "is in use by another canaryproxy": {},  # the state, which the running one has
        "there is no directory": {"state": {"path": str(folder / "no" / "state.db")}},
        "cannot be opened": {"state": {"path": "/proc/state.db"}},  # nobody can make a file there, whoever runs this
        "is not a state file, or is damaged": {"state": {"path": str(folder / "damaged.db")}},
        "saved rollout of route 'shop': cannot be understood": {"state": {"path": str(known)}},
        "can be read by others": {"admin": {"token_file": str(folder / "open")}},
        "is empty": {"admin": {"token_file": str(folder / "empty")}},
        "cannot be made": {"admin": {"token_file": str(folder / "no" / "token")}},
        "no pool is named 'v9'": {"routes": {"shop": {"canary": "v9"}}},
    }
    files = []
    for number, changes in enumerate(causes.values()):
        file, port, other = folder / f"{number}.yaml", free_port(), free_port()
        own = {"listen": f"127.0.0.1:{port}", "admin": {"listen": f"127.0.0.1:{other}"}} if number > 1 else {}
        file.write_text(json.dumps(merged(json.loads(product.file.read_text()), merged(own, changes))))
        files.append(file)
    lines = await asyncio.gather(*(refusal(product, file) for file in files))
    assert [words for words, line in zip(causes, lines, strict=True) if words not in line] == [], lines
    (folder / "broken.yaml").write_text("pools: [")
    assert "broken.yaml" in await refusal(product, folder / "broken.yaml")
    assert await versions(product) == {"v1"}
