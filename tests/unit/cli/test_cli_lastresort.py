"""`rollback` when the admin API does not do it: when the supervisor is asked, what it is asked, what is said of it."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from played_admin import TOKEN, Command, Played

from canaryproxy.cli import lastresort
from canaryproxy.control.takeback import Takeback, lock_state, read_takebacks, tell_obeyed, write_takeback

pytest_plugins = ["played_admin"]


class Supervisor:
    """A process with the lock on ./s.db that obeys, and puts on record what it was asked, as it is told."""

    def __init__(self, admin: str, *, records: bool = True, obeys: bool = True, refuses: bool = False) -> None:
        self.said, writing = os.pipe()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGRTMIN})
        self.pid = os.fork()
        if self.pid == 0:
            lock = os.open("s.db.lock", os.O_RDWR | os.O_CREAT, 0o600)
            os.write(lock, admin.encode())
            lock_state(lock)
            os.write(writing, b"ready\n")
            for obeyed in range(1, 100):
                number = signal.sigwait({signal.SIGUSR2, signal.SIGRTMIN})
                asked = read_takebacks(Path("s.db"), heard=True)
                os.write(writing, f"{json.dumps([number, [takeback.route for takeback in asked]])}\n".encode())
                if obeys:
                    tell_obeyed(lock, obeyed)
                for takeback in asked:
                    if refuses:
                        takeback.refuse()
                    elif records:
                        takeback.forget()
            os._exit(0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2, signal.SIGRTMIN})
        os.close(writing)
        assert os.read(self.said, 6) == b"ready\n"

    def heard(self) -> Any:
        """The signal, and the routes it was asked for."""
        return json.loads(os.read(self.said, 4096))

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.said)


@pytest.fixture
def supervise() -> Iterator[Callable[..., Supervisor]]:
    made: list[Supervisor] = []

    def make(admin: str = "", **options: Any) -> Supervisor:
        made.append(Supervisor(admin, **options))
        return made[-1]

    yield make
    for supervisor in made:
        supervisor.end()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lastresort, "_OBEY", 0.3)
    monkeypatch.setattr(lastresort, "_RECORD", 0.3)
    monkeypatch.setattr("canaryproxy.cli.operate._ROLLBACK_PATIENCE", 0.2)


Supervise = Callable[..., Supervisor]
WORDS = ("rollback", "shop", "--state", "s.db", "--reason", "night")


def closed() -> str:
    """A URL where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_nobody_listens(command: Command, supervise: Supervise) -> None:
    supervisor = supervise()
    ran = command(*WORDS, "--admin", closed(), CANARYPROXY_TOKEN=TOKEN)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("rolled back: shop, past the admin API: no user on the canary after ")
    assert supervisor.heard() == [signal.SIGUSR2, ["shop"]]
    assert [*Path().glob("*.rollback*")] == []


@pytest.mark.parametrize(
    "answer", [(500, {"error": {"code": "internal", "message": "a defect"}}), (502, b"Bad Gateway"), (200, b"<")]
)
def test_it_answers_rubbish(operator: Command, api: Played, supervise: Supervise, answer: tuple[int, Any]) -> None:
    supervise(api.url.removeprefix("http://"))
    api.answers["POST /api/v1/routes/shop/rollback"] = answer
    ran = operator(*WORDS, "--json")
    assert ran.code == 0, ran.err
    told = json.loads(ran.out)
    assert (told["rolled_back"], told["route"], told["unwritten"]) == (True, "shop", "")
    assert told["recorded_ms"] >= told["down_ms"] >= 0


def test_it_says_nothing_at_all(command: Command, supervise: Supervise) -> None:
    """Not even which routes there are: every rollout in progress."""
    supervisor = supervise()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        ran = command("rollback", "--state", "s.db", "--admin", url, CANARYPROXY_TOKEN=TOKEN)
    assert (ran.code, ran.out.startswith("rolled back: every rollout in progress, past")) == (0, True)
    assert supervisor.heard() == [signal.SIGUSR2, [None]]


def test_a_refusal_is_an_answer(operator: Command, api: Played, supervise: Supervise) -> None:
    supervise()
    api.answers["POST /api/v1/routes/shop/rollback"] = (401, {"error": {"code": "unauthorized", "message": "no", "hint": ""}})
    ran = operator(*WORDS)
    assert (ran.code, ran.err) == (1, "canaryproxy: no\n")


def test_with_a_full_disk_it_is_the_signal_alone(command: Command, supervise: Supervise, monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor = supervise()

    def full(*_: Any) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lastresort, "write_takeback", full)
    ran = command(*WORDS, "--admin", closed(), CANARYPROXY_TOKEN=TOKEN)
    assert (ran.code, ran.out.startswith("rolled back: every rollout in progress, past")) == (0, True)
    assert "no request could be written (No space left on device)" in ran.err
    assert "not on record yet" in ran.err
    assert supervisor.heard() == [signal.SIGRTMIN, []]


def test_what_is_not_on_record_yet_is_said(command: Command, supervise: Supervise) -> None:
    supervise(records=False)
    ran = command(*WORDS, "--admin", closed(), CANARYPROXY_TOKEN=TOKEN)
    assert (ran.code, ", on record" in ran.out, "shop: not on record yet" in ran.err) == (0, False, True)


def test_a_supervisor_that_does_nothing_is_an_error(command: Command, supervise: Supervise) -> None:
    supervise(obeys=False, records=False)
    ran = command(*WORDS, "--admin", closed(), CANARYPROXY_TOKEN=TOKEN)
    assert (ran.code, "does not act within 0.3 s; stop the proxy" in ran.err) == (3, True)


def test_an_unknown_route_is_an_error(command: Command, supervise: Supervise) -> None:
    supervise(refuses=True)
    ran = command(*WORDS, "--admin", closed(), CANARYPROXY_TOKEN=TOKEN)
    assert (ran.code, "route 'shop': does not exist" in ran.err) == (1, True)
    assert [*Path().glob("*.refused*")] == []


def test_the_state_of_another_proxy_is_left_alone(command: Command, supervise: Supervise) -> None:
    supervise("127.0.0.1:9901")
    ran = command(*WORDS, "--admin", closed(), CANARYPROXY_TOKEN=TOKEN)
    assert (ran.code, "whose admin endpoint is 127.0.0.1:9901, not" in ran.err) == (1, True)


def test_another_machine_and_no_url(command: Command) -> None:
    for url, said in (("http://192.0.2.1:1", "on the proxy's own machine"), ("http://x.invalid:1", "on the proxy's own machine")):
        ran = command(*WORDS, "--admin", url, CANARYPROXY_TOKEN=TOKEN)
        assert (ran.code, said in ran.err, ran.err.count("\n")) == (3, True, 1), ran.err
    ran = command(*WORDS, "--admin", "http://[::1", CANARYPROXY_TOKEN=TOKEN)
    assert (ran.code, "is not a URL" in ran.err) == (3, True)


def test_without_a_proxy_the_first_error_stands(command: Command) -> None:
    ran = command(*WORDS, "--admin", closed(), CANARYPROXY_TOKEN=TOKEN)
    assert (ran.code, "connection refused; is the proxy running?" in ran.err) == (3, True)


def test_another_users_proxy(command: Command, supervise: Supervise, monkeypatch: pytest.MonkeyPatch) -> None:
    supervise()
    monkeypatch.setattr(lastresort, "_owner_of", lambda _: (4711, 4711))
    monkeypatch.setattr(os, "geteuid", lambda: 4712)
    ran = command(*WORDS, "--admin", closed(), CANARYPROXY_TOKEN=TOKEN)
    assert (ran.code, "is another user's; run this as that user, or root" in ran.err) == (1, True)


def test_root_writes_for_the_proxys_user(command: Command, supervise: Supervise, monkeypatch: pytest.MonkeyPatch) -> None:
    supervise()
    owners: list[tuple[int, int] | None] = []

    def noted(state: Path, takeback: Takeback, owner: tuple[int, int] | None = None) -> Path:
        owners.append(owner)
        return write_takeback(state, takeback)

    monkeypatch.setattr(lastresort, "write_takeback", noted)
    monkeypatch.setattr(lastresort, "_owner_of", lambda _: (4711, 4712))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert command(*WORDS, "--admin", closed(), CANARYPROXY_TOKEN=TOKEN).code == 0
    assert owners == [(4711, 4712)]


def test_a_read_that_needs_the_token_is_asked_again_with_it(operator: Command, api: Played) -> None:
    api.answers["GET /api/v1/routes"] = (401, {"error": {"code": "unauthorized", "message": "reading needs a token", "hint": ""}})
    assert operator("status").code == 1
    assert api.authorization == [None, f"Bearer {TOKEN}"]
