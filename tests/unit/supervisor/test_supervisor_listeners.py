"""The listening sockets of both schemes: which are new, kept and closed when a configuration comes after another."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from canaryproxy.config.schema import Config
from canaryproxy.errors import StartError
from canaryproxy.supervisor.listeners import Listeners, Share, open_exclusive

Open = Callable[..., Listeners]


def config(http: int | None, https: int | None, host: str = "127.0.0.1") -> Config:
    """A configuration that listens on these ports."""
    tls = None if https is None else {"listen": f"{host}:{https}", "certificate": "x", "key": "y"}
    return Config.model_validate(
        {
            "listen": False if http is None else f"{host}:{http}",
            "tls": tls,
            "pools": {"v1": {"servers": ["http://a"]}},
            "routes": {"shop": {"stable": "v1"}},
        }
    )


@pytest.fixture
def opened() -> Iterator[Open]:
    """`Listeners(...)`, closed when the test is over."""
    made: list[Listeners] = []

    def make(*arguments: object) -> Listeners:
        made.append(Listeners(*arguments))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for listeners in made:
        listeners.trim()


@pytest.fixture
def ports() -> list[int]:
    """Four ports that are free."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
    found = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return found


def ports_of(sockets: list[socket.socket]) -> set[int]:
    return {sock.getsockname()[1] for sock in sockets}


def test_both_addresses_are_shared_out_to_workers(opened: Open, ports: list[int]) -> None:
    listeners = opened(config(ports[0], ports[1]))
    shares = [listeners.share(3, index) for index in range(3)]
    assert [(len(share.http), len(share.https)) for share in shares] == [(1, 1)] * 3
    assert {port for share in shares for port in ports_of(share.http)} == {ports[0]}
    assert {port for share in shares for port in ports_of(share.https)} == {ports[1]}
    assert len({id(sock) for share in shares for scheme in share for sock in scheme}) == len(listeners.all()) == 6
    # fewer workers later: each socket still has one
    fewer = listeners.share(2, 0), listeners.share(2, 1)
    assert [(len(share.http), len(share.https)) for share in fewer] == [(2, 2), (1, 1)]


def test_one_scheme_alone(opened: Open, ports: list[int]) -> None:
    plain, secure = opened(config(ports[0], None)), opened(config(None, ports[1]))
    assert plain.urls() == f"http://127.0.0.1:{ports[0]}"
    assert secure.urls() == f"https://127.0.0.1:{ports[1]}"
    assert opened(config(ports[2], ports[3])).urls() == f"http://127.0.0.1:{ports[2]}, https://127.0.0.1:{ports[3]}"
    assert plain.share(1, 0) == Share(plain.all(), [])
    assert secure.share(1, 0) == Share([], secure.all())


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        ((0, None), (0, 1), {0}),  # TLS comes
        ((0, 1), (0, None), {0}),  # and goes
        ((0, 1), (0, 2), {0}),  # and moves
        ((0, 1), (2, 1), {1}),
        ((0, 1), (None, 1), {1}),
        ((0, 1), (0, 1), {0, 1}),
        ((0, 1), (2, 3), set()),
    ],
)
def test_what_keeps_its_address_keeps_its_sockets(
    opened: Open, ports: list[int], before: tuple[int | None, ...], after: tuple[int | None, ...], kept: set[int]
) -> None:
    def at(places: tuple[int | None, ...]) -> Config:
        http, https = (None if place is None else ports[place] for place in places)
        return config(http, https)

    old = opened(at(before))
    sockets = old.all()
    new = opened(at(after), old)
    assert ports_of([sock for sock in new.all() if sock in sockets]) == {ports[place] for place in kept}
    assert ports_of(new.all()) == {ports[place] for place in after if place is not None}
    # it comes into force:
    old.trim(new.all())
    assert all(sock.fileno() >= 0 for sock in new.all())
    assert all(sock.fileno() < 0 for sock in sockets if sock not in new.all())


def test_a_reload_that_is_undone_leaves_the_sockets_as_they_were(opened: Open, ports: list[int]) -> None:
    old = opened(config(ports[0], ports[1]))
    old.share(2, 0)
    before = old.all()
    new = opened(config(ports[0], ports[2]), old)
    new.share(4, 0)
    newcomers = [sock for sock in new.all() if sock not in before]
    assert len(newcomers) == 2 + 4
    new.trim(before)
    assert old.all() == before
    assert all(sock.fileno() >= 0 for sock in before)
    assert all(sock.fileno() < 0 for sock in newcomers)


def test_an_address_does_not_change_its_scheme(opened: Open, ports: list[int]) -> None:
    """Workers that drain would answer on it in the other way."""
    old = opened(config(ports[0], ports[1]))
    before = old.all()
    for swapped in (config(ports[1], ports[0]), config(None, ports[0]), config(None, ports[0], "0.0.0.0")):
        with pytest.raises(StartError, match=r"serves https? until now; use another port, or restart"):
            Listeners(swapped, old)
    assert old.all() == before
    assert all(sock.fileno() >= 0 for sock in before)


def test_an_address_that_is_taken_leaves_nothing_open(opened: Open, ports: list[int]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with pytest.raises(StartError, match="is in use by another program"):
            Listeners(config(ports[0], taken))
        with open_exclusive(config(ports[0], None).admin.listen._replace(port=ports[0])):  # was closed again
            pass
        old = opened(config(ports[1], None))
        with pytest.raises(StartError, match="is in use by another program"):
            Listeners(config(ports[1], taken), old)
        assert [sock.fileno() >= 0 for sock in old.all()] == [True]


def test_a_host_changes_on_the_same_port(opened: Open, ports: list[int]) -> None:
    old = opened(config(ports[0], ports[1]))
    new = opened(config(ports[0], ports[1], "0.0.0.0"), old)
    assert {sock.getsockname()[0] for sock in new.all()} == {"0.0.0.0"}
