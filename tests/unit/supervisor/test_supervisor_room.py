"""A deploy waits for workers that drain; it does not fail because many came in a row."""

from __future__ import annotations

from pathlib import Path

import pytest

from canaryproxy.config.schema import Config
from canaryproxy.supervisor.child import Child
from canaryproxy.supervisor.main import Supervisor


def test_a_question_waits_until_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {
        "listen": "127.0.0.1:0",
        "workers": 4,
        "admin": {"listen": "127.0.0.1:0"},
        "state": {"path": str(tmp_path / "state.db")},
        "pools": {"v1": {"servers": ["http://a"]}},
        "routes": {"shop": {"stable": "v1"}},
    }
    monkeypatch.setattr(Child, "signal", lambda child, number: None)
    supervisor = Supervisor(Config.model_validate(data), None)
    try:
        supervisor._generation = 4
        children = [Child(pid, "worker", 0.0, pid, pid % 4, generation=1 + pid // 4) for pid in range(16)]
        supervisor._workers = {child.pid: child for child in children[4:]}
        question = supervisor._handover.ask()
        assert supervisor._has_room(question)
        supervisor._workers = {child.pid: child for child in children}
        assert not supervisor._has_room(question)
        supervisor._handover.withdraw()
        assert supervisor._has_room(question), "it is refused at once"
        for child in children:
            child.generation = 4
        assert supervisor._has_room(supervisor._handover.ask()), "nobody will leave: the reload says why it cannot be"
    finally:
        supervisor._stop(grace=0)
