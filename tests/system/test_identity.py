"""Who a request is from, as it tells the upstream, the log and the split: only trusted hops are believed (F8-F10, H1-H11)."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from plane import Origin, Plane, eventually, plane, read_all, read_head

from canaryproxy.shared.layout import Count

pytestmark = pytest.mark.system

TRUSTED = {"trusted_proxies": ["127.0.0.1", "10.0.0.0/8", "2001:db8::/32"]}
#: Lines with which a client might want to be somebody else.
FORGED = (
    "X-Forwarded-For: 10.9.9.9",
    "x-forwarded-for: 10.8.8.8",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: evil.example",
    "X-Forwarded-Port: 443",
    "X-Forwarded-Server: evil",
    "X-Forwarded-Prefix: /admin",
    "Forwarded: for=10.9.9.9;proto=https",
    "X-Real-IP: 10.9.9.9",
    "X-Request-ID: forged",
    "X-Canary-Variant: canary",
)


def show(sock: socket.socket) -> None:
    """Answer with the head that came; an id in the answer is the upstream's own."""
    while head := read_head(sock)[0]:
        sock.sendall(b"HTTP/1.1 200 OK\r\nX-Request-ID: theirs\r\nContent-Length: %d\r\n\r\n%b" % (len(head), head))


def ask(
    proxy: Plane, *lines: str, start: str = "GET / HTTP/1.1", host: str | None = "shop", source: str = "127.0.0.1"
) -> tuple[str, dict[str, list[str]]]:
    """What the upstream got: its request line, and the values of each field by its lower-case name."""
    return parse(answer(proxy, *lines, start=start, host=host, source=source)[1])


def answer(
    proxy: Plane, *lines: str, start: str = "GET / HTTP/1.1", host: str | None = "shop", source: str = "127.0.0.1"
) -> tuple[bytes, bytes]:
    """Head and body of the answer to a request with these lines, from this address."""
    all_lines = (start, *([f"Host: {host}"] if host else ()), *lines, "Connection: close", "", "")
    with socket.create_connection(("127.0.0.1", proxy.port), 20, (source, 0)) as client:
        client.sendall("\r\n".join(all_lines).encode("latin-1"))
        head, _, body = read_all(client).partition(b"\r\n\r\n")
        return head, body


def parse(head: bytes) -> tuple[str, dict[str, list[str]]]:
    """First line, and the values of each field by its lower-case name."""
    start, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    fields: dict[str, list[str]] = {}
    for name, _, value in (line.partition(": ") for line in lines):
        fields.setdefault(name.lower(), []).append(value)
    return start, fields


def status(head: bytes) -> int:
    return int(head.split(b" ")[1])


@pytest.fixture(scope="module")
def strict() -> Iterator[Plane]:
    """Nobody is trusted."""
    with plane(Origin(show)) as made:
        yield made


@pytest.fixture(scope="module")
def trusting() -> Iterator[Plane]:
    """Clients on 127.0.0.1 are trusted proxies; those on 127.0.0.2 are not."""
    with plane(Origin(show), expose_request_id=True, **TRUSTED) as made:
        yield made


# From anybody.


def test_what_a_client_says_of_itself_is_not_passed_on(strict: Plane) -> None:
    start, fields = ask(strict, *FORGED)
    own = {name: fields.pop(name) for name in list(fields) if name.startswith("x-")}
    request_id = own.pop("x-request-id")
    assert own == {
        "x-forwarded-for": ["127.0.0.1"],
        "x-forwarded-proto": ["http"],
        "x-forwarded-host": ["shop"],
        "x-forwarded-port": ["8080"],
        "x-canary-variant": ["stable"],
    }
    assert len(request_id) == 1
    assert re.fullmatch("[0-9a-f]{24}", request_id[0])
    assert (start, fields) == ("GET / HTTP/1.1", {"host": ["shop"]})


def test_a_client_beside_a_trusted_proxy_is_not_one(trusting: Plane) -> None:
    _, fields = ask(trusting, *FORGED, source="127.0.0.2")
    assert fields["x-forwarded-for"] == ["127.0.0.2"]
    assert fields["x-forwarded-host"] == ["shop"]
    assert not fields.keys() & {"forwarded", "x-real-ip", "x-forwarded-server", "x-forwarded-prefix"}
    assert fields["x-request-id"] != ["forged"]


@pytest.mark.parametrize("line", FORGED)
@pytest.mark.parametrize("choice", ["drop", "allow"])
def test_no_other_spelling_passes(line: str, choice: str, spellings: dict[str, Plane]) -> None:
    """CGI and WSGI read X_Forwarded_For as X-Forwarded-For (F8)."""
    name, _, value = line.partition(": ")
    for spelt in {name.replace("-", "_"), name.replace("-", "_", 1), name.upper().replace("-", "_")}:
        _, fields = ask(spellings[choice], f"{spelt}: {value}", "X_Plain: 1")
        assert [known for known in fields if "_" in known] == (["x_plain"] if choice == "allow" else [])
        assert value not in fields.get(name.lower(), [])


@pytest.fixture(scope="module")
def spellings() -> Iterator[dict[str, Plane]]:
    """A worker for each choice of `underscore_headers`."""
    with (
        plane(Origin(show), underscore_headers="drop") as drop,
        plane(Origin(show), underscore_headers="allow") as allow,
        plane(Origin(show), underscore_headers="reject") as reject,
    ):
        yield {"drop": drop, "allow": allow, "reject": reject}


def test_underscores_may_be_refused(spellings: dict[str, Plane]) -> None:
    assert status(answer(spellings["reject"], "X_Plain: 1")[0]) == 400


@pytest.mark.parametrize(
    "name",
    ["X-Forwarded-For", "x-forwarded-proto", "Forwarded", "X-Real-IP", "X-Request-ID", "X-Canary-Variant", "traceparent", "Host"],
)
def test_what_we_say_cannot_be_taken_away(strict: Plane, name: str) -> None:
    """Connection names fields to be cut on the way, ours never (H1)."""
    assert status(answer(strict, f"Connection: {name}")[0]) == 400


def test_who_sends_the_same_bytes_is_not_the_same_client(strict: Plane) -> None:
    """What is remembered of a header block holds for one client's address only."""
    sources = [f"127.0.0.{number}" for number in range(1, 6)]
    clients = {source: socket.create_connection(("127.0.0.1", strict.port), 20, (source, 0)) for source in sources}
    for source in sources + sources[::-1] + sources * 2:
        clients[source].sendall(b"GET /same HTTP/1.1\r\nHost: shop\r\nUser-Agent: same\r\n\r\n")
        head, body = read_head(clients[source])
        while not body.endswith(b"\r\n\r\n"):
            body += clients[source].recv(65536)
        assert (status(head), parse(body)[1]["x-forwarded-for"]) == (200, [source])
    for client in clients.values():
        client.close()


# From a trusted proxy.


def test_what_a_trusted_proxy_says_is_passed_on_and_completed(trusting: Plane) -> None:
    _, fields = ask(
        trusting,
        "X-Forwarded-For: 203.0.113.7, 10.1.1.1",
        "X-Forwarded-For: 10.2.2.2",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: shop.example",
        "X-Forwarded-Port: 443",
        "Forwarded: for=203.0.113.7;proto=https",
        "X-Real-IP: 203.0.113.7",
        "X-Request-ID: edge-1.a_b",
        "X-Canary-Variant: canary",
    )
    assert {name: values for name, values in fields.items() if name.startswith("x-") or name == "forwarded"} == {
        "x-forwarded-for": ["203.0.113.7, 10.1.1.1, 10.2.2.2, 127.0.0.1"],
        "x-forwarded-proto": ["https"],
        "x-forwarded-host": ["shop.example"],
        "x-forwarded-port": ["443"],
        "x-real-ip": ["203.0.113.7"],
        "x-request-id": ["edge-1.a_b"],
        "x-canary-variant": ["stable"],
        "forwarded": ["for=203.0.113.7;proto=https", "for=127.0.0.1;proto=http"],
    }


@pytest.mark.parametrize("lines", [("",), ("a b",), ("a\xe9",), ("a" * 129,), ("one", "two"), ("a,b",)])
def test_a_request_id_must_have_the_form_of_one(trusting: Plane, lines: tuple[str, ...]) -> None:
    _, fields = ask(trusting, *(f"X-Request-ID: {line}" for line in lines))
    assert [re.fullmatch("[0-9a-f]{24}", value) is not None for value in fields["x-request-id"]] == [True]


def test_request_ids_are_shown_if_that_is_wished(trusting: Plane, strict: Plane) -> None:
    """And then only ours: the upstream's would be a second one."""
    for source, expected in (("127.0.0.1", "edge-1"), ("127.0.0.2", None)):
        head, body = answer(trusting, "X-Request-ID: edge-1", source=source)
        sent = parse(body)[1]["x-request-id"]
        assert parse(head)[1]["x-request-id"] == sent
        assert (sent == ["edge-1"]) == (expected is not None)
    assert parse(answer(strict)[0])[1]["x-request-id"] == ["theirs"]


def test_our_own_answers_show_the_request_id_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    with plane(port, expose_request_id=True, **TRUSTED) as proxy:
        head, _ = answer(proxy, "X-Request-ID: edge-1")
        assert status(head) == 502
        assert parse(head)[1]["x-request-id"] == ["edge-1"]


def test_every_request_has_an_id_of_its_own(strict: Plane) -> None:
    with strict.client() as client:
        client.sendall(
            b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n" * 49 + b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n"
        )
        sent = re.findall(rb"\r\nX-Request-ID: ([0-9a-f]+)\r\n\r\n", read_all(client))
    assert len(set(sent)) == 50


def test_a_trace_passes_untouched(strict: Plane) -> None:
    lines = ("TraceParent: 00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate: a=1, b=2", "TraceState: c=\xe9")
    body = answer(strict, *lines)[1].decode("latin-1")
    assert [line for line in body.split("\r\n") if line.lower().startswith("trace")] == list(lines)


# Whose host it is.


@pytest.mark.parametrize(
    ("target", "host", "expected"),
    [
        ("http://shop.example/a?b=//c", "other.example", ("/a?b=//c", "shop.example")),
        ("HTTP://shop.example:8080", "shop.example", ("/", "shop.example:8080")),
        ("https://shop.example?a", "other.example", ("/?a", "shop.example")),
        ("http://[2001:db8::1]:80/", "other.example", ("/", "[2001:db8::1]:80")),
    ],
)
def test_an_absolute_target_decides_the_host(strict: Plane, target: str, host: str, expected: tuple[str, str]) -> None:
    start, fields = ask(strict, start=f"GET {target} HTTP/1.1", host=host)
    assert start == f"GET {expected[0]} HTTP/1.1"
    assert (fields["host"], fields["x-forwarded-host"]) == ([expected[1]], [expected[1]])


@pytest.mark.parametrize(
    "target", ["http://user@shop.example/", "http:///", "http://a,b/", "ftp://shop.example/", "//shop.example"]
)
def test_targets_that_are_none(strict: Plane, target: str) -> None:
    """The last is a path, and stays one."""
    head, body = answer(strict, start=f"GET {target} HTTP/1.1")
    if target.startswith("//"):
        assert parse(body)[0] == f"GET {target} HTTP/1.1"
        assert parse(body)[1]["host"] == ["shop"]
    else:
        assert status(head) == 400


@pytest.mark.parametrize(("choice", "expected"), [("preserve", "shop"), ("upstream", None), ("app.internal", "app.internal")])
def test_the_host_that_the_upstream_sees(choice: str, expected: str | None) -> None:
    origin = Origin(show)
    with plane(origin, host_header=choice) as proxy:
        for start in ("GET / HTTP/1.1", "GET http://shop/ HTTP/1.1"):
            _, fields = ask(proxy, start=start)
            assert fields["host"] == [expected or f"127.0.0.1:{origin.port}"]
            assert fields["x-forwarded-host"] == ["shop"]
        _, fields = ask(proxy, start="GET / HTTP/1.0", host=None)
        assert fields["host"] == [f"127.0.0.1:{origin.port}" if choice != "app.internal" else "app.internal"]
        assert "x-forwarded-host" not in fields


# Who is one user.


def by_address(**more: Any) -> dict[str, Any]:
    """A configuration in which a client's address is its user."""
    affinity = {"cookie": "uid", "cookieless": "ip"}
    return {"routes": {"shop": {"stable": "v1", "canary": "v2", "affinity": affinity}}, **TRUSTED, **more}


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Plane, Path]]:
    """Half of the users are on the canary; and the access log."""
    log = tmp_path_factory.mktemp("log") / "access.json"
    with plane(Origin(show), access_log={"format": "json", "path": str(log)}, **by_address()) as made:
        made.board.publish(0, 5_000, swapped=False, salt=7)
        yield made, log


def test_a_client_cannot_choose_its_variant_by_what_it_forwards(halved: tuple[Plane, Path]) -> None:
    proxy, _ = halved
    for source in ("127.0.0.2", "127.1.0.2", "127.2.0.2", "127.3.0.2"):
        forged = [(), *((f"X-Forwarded-For: 203.0.{number}.7", "X-Canary-Variant: canary") for number in range(12))]
        assert len({ask(proxy, *lines, source=source)[1]["x-canary-variant"][0] for lines in forged}) == 1


def test_the_last_hop_that_is_not_trusted_is_the_user(halved: tuple[Plane, Path]) -> None:
    """What stands before it in the chain may be its own invention."""
    proxy, _ = halved
    variants = {}
    for number in range(12):
        client = f"203.0.{number}.7"
        chains = (
            (f"X-Forwarded-For: {client}",),
            (f"X-Forwarded-For: 198.51.100.{number}, {client}",),
            (f"X-Forwarded-For: 10.9.9.9, 192.0.2.{number}, {client}, 10.1.1.1, [2001:db8::5]:443",),
            (f"X-Forwarded-For: 192.0.2.{number}", f"X-Forwarded-For: {client}:4711", "X-Forwarded-For: 10.1.1.1"),
            (f"X-Forwarded-For: {client}", "X-Real-IP: 192.0.2.1", "Forwarded: for=192.0.2.2"),
        )
        seen = {ask(proxy, *lines)[1]["x-canary-variant"][0] for lines in chains}
        assert len(seen) == 1, client
        variants[client] = seen.pop()
    assert set(variants.values()) == {"stable", "canary"}


def test_a_network_is_one_user(halved: tuple[Plane, Path]) -> None:
    proxy, _ = halved
    for network in ("203.0.0", "203.0.1", "203.0.2"):
        assert len({ask(proxy, f"X-Forwarded-For: {network}.{n}")[1]["x-canary-variant"][0] for n in range(1, 12)}) == 1


def test_the_log_names_the_same_client(halved: tuple[Plane, Path]) -> None:
    proxy, log = halved
    asked = {
        "/untrusted": ("127.0.0.2", ("X-Forwarded-For: 203.0.113.7", "X-Request-ID: forged"), "127.0.0.2"),
        "/trusted": ("127.0.0.1", ("X-Forwarded-For: 192.0.2.1, 203.0.113.7, 10.1.1.1", "X-Request-ID: edge-1"), "203.0.113.7"),
        "/broken": ("127.0.0.1", ("X-Forwarded-For: 203.0.113.7, unknown",), "127.0.0.1"),
        "/ipv6": ("127.0.0.1", ("X-Forwarded-For: 2001:DB9:0::7",), "2001:db9::7"),
        "/none": ("127.0.0.1", (), "127.0.0.1"),
    }
    for path, (source, lines, _) in asked.items():
        ask(proxy, *lines, start=f"GET {path} HTTP/1.1", source=source)

    def entries() -> dict[str, dict[str, Any]]:
        return {entry["target"]: entry for entry in map(json.loads, log.read_text().splitlines()) if entry["target"] in asked}

    eventually(lambda: entries().keys() == asked.keys())
    found = entries()
    assert {path: (entry["client_ip"], entry["peer"]) for path, entry in found.items()} == {
        path: (client, source) for path, (source, _, client) in asked.items()
    }
    assert found["/trusted"]["request_id"] == "edge-1"
    assert found["/untrusted"]["request_id"] != "forged"
    assert {entry["assignment"] for entry in found.values()} == {"ip"}


def test_a_user_s_own_key_comes_before_the_address() -> None:
    with plane(Origin(show), **by_address()) as proxy:
        proxy.board.publish(0, 5_000, swapped=False, salt=7)
        variants = {
            ask(proxy, f"Cookie: a=b; uid=user-{n}", f"X-Forwarded-For: 203.0.113.{n}")[1]["x-canary-variant"][0]
            for n in range(12)
        }
        assert variants == {"stable", "canary"}
        same = {ask(proxy, "Cookie: uid=user-1", f"X-Forwarded-For: 203.0.{n}.7")[1]["x-canary-variant"][0] for n in range(12)}
        assert len(same) == 1
    assert sum(sum(proxy.outcomes(variant).values()) for variant in (0, 1)) == 24
    assert proxy.outcomes().keys() == {Count.C2XX}
