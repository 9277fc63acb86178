"""Whatever clients, origins and time do, in any order: no callback raises, and the books balance (`Wire` looks at them)."""

from __future__ import annotations

from random import Random

from wire import GET, OK, FarEnd, Wire

from canaryproxy.proxy import outcome
from canaryproxy.proxy.downstream import Downstream
from canaryproxy.proxy.upstream import Upstream

REQUESTS = [
    GET,
    b"GET / HTTP/1.1\r\nHost: shop\r\nCookie: uid=%d\r\n\r\n" % 7,
    b"GET / HTTP/1.0\r\nHost: shop\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n",
    b"PUT / HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: shop\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000),
    b"bad\r\n\r\n",
]
RESPONSES = [
    OK,
    b"HTTP/1.1 103 Early Hints\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 500 Oops\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nuntil close",
    b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + bytes(200_000),
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n15F90\r\n" + bytes(90_000) + b"\r\n0\r\n\r\n",
    b"nonsense\r\n\r\n",
]
SEEDS = 1000
SHARES = [0.1, 0.5, 0.9, 1.0, 1.0, 1.0, 1.0]
ACTIONS = ["request"] * 8 + ["response"] * 8 + ["take", "take", "advance", "advance"]
ACTIONS += ["connect", "fin", "reset", "stop taking", "hold", "accept", "refuse", "weight"]


class Player:
    """One run of things that happen, drawn by `random`; `story` tells them."""

    def __init__(self, wire: Wire, random: Random) -> None:
        self._wire, self._random = wire, random
        self._rests: dict[FarEnd, bytes] = {}
        self.story: list[str] = []

    def _some(self, *kinds: type) -> FarEnd | None:
        living = [end for end in self._wire.ends if not end.gone and isinstance(end.protocol, kinds)]
        return self._random.choice(living[-3:]) if living else None

    def _send(self, end: FarEnd, messages: list[bytes]) -> None:
        """What an end has begun to send it goes on with, before anything else."""
        whole = self._rests.pop(end, b"") or self._random.choice(messages)
        cut = int(len(whole) * self._random.choice(SHARES))
        self._rests[end] = whole[cut:]
        self.story[-1] += f" {whole[:cut][:40]!r} of {len(whole)}"
        end.send(whole[:cut])

    def play(self) -> None:
        """Let one thing happen."""
        wire, random = self._wire, self._random
        name = random.choice(ACTIONS)
        self.story.append(name)
        if name == "connect":
            wire.client()
        elif name == "advance":
            wire.advance(random.choice([0.01, 0.12, 1.0, 9.0, 31.0]))
        elif name == "weight":
            wire.publish(random.choice([0, 5_000, 10_000]))
        elif name == "hold":
            wire.holds_connects = not wire.holds_connects
            wire.settle()
        elif name in ("accept", "refuse"):
            if wire.connecting:
                wire.accept(random.choice([0, 1 << 60])) if name == "accept" else wire.refuse(outcome.CONNECT_TIMEOUT)
        elif name == "request":
            self._send(self._some(Downstream) or wire.client(), REQUESTS)
        elif (end := self._some(Upstream) if name == "response" else self._some(Upstream, Downstream)) is not None:
            if name == "response":
                self._send(end, RESPONSES)
            elif name == "stop taking":
                end.window = 0
            else:
                {"take": end.take, "fin": end.send_fin, "reset": end.reset}[name]()


def test_the_books_balance_whatever_happens() -> None:
    for seed in range(SEEDS):
        random = Random(seed)
        story: list[str] = []
        try:
            with Wire(servers=2, limits={"idle_per_server": 2}) as wire:
                wire.hung = None
                player = Player(wire, random)
                story = player.story
                for _ in range(random.randrange(60)):
                    player.play()
        except Exception as error:
            error.add_note(f"seed {seed}: " + "; ".join(story))
            raise
