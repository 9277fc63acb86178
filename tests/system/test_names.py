"""Servers given by name, when the name's meaning changes: a real canaryproxy in a mount namespace with hosts of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_origin import FaultOrigin, Message, ok, once, stage
from harness import PROGRAM
from plane import eventually

pytestmark = pytest.mark.system


@pytest.fixture
def names(peer: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a canaryproxy that is started now sees as /etc/hosts, and there is no name server."""
    hosts, resolver = tmp_path / "hosts", tmp_path / "resolv.conf"
    hosts.touch()
    resolver.write_text("nameserver 127.0.0.1\noptions attempts:1 timeout:1\n")
    mount = f"mount --bind {hosts} /etc/hosts && mount --bind {resolver} /etc/resolv.conf"
    within = (str(peer("unshare")), "--map-root-user", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh")
    if subprocess.run((*within, "true"), check=False).returncode:
        pytest.skip("this machine gives no mount namespace")
    monkeypatch.setattr("harness.PROGRAM", (*within, *PROGRAM))
    return hosts


def test_a_name_that_is_gone_keeps_its_address_and_one_that_moves_is_followed(names: Path, tmp_path: Path) -> None:
    names.write_text("127.0.0.1 app.test\n")
    first = FaultOrigin()
    second = FaultOrigin("127.0.0.2", first.port)
    second.script = once(ok(b"moved"))
    pools = {"v1": {"servers": [f"http://app.test:{first.port}"], "resolve": "1s"}}
    with stage(tmp_path, pools=pools, routes={"shop": {"canary": None}}) as made:
        assert made.get("/found").body == b"GET /found HTTP/1.1 "
        names.write_text("")
        eventually(lambda: made.product.said("app.test: cannot be looked up"))
        first.calm()  # the next one needs a new connection
        assert made.get("/lost").body == b"GET /lost HTTP/1.1 "
        names.write_text("127.0.0.2 app.test\n")
        answers: list[Message] = []
        eventually(lambda: answers.append(made.get()) or answers[-1].body == b"moved")  # type: ignore[func-returns-value]
        assert {answer.status for answer in answers} == {200}
    first.close()
    second.close()
