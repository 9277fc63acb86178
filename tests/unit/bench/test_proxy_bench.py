"""The proxy benchmark's own parts: a wrong answer is never counted as a good one, and the figures are what they say."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import pairwise

import pytest

from bench.proxy.load import Load, run
from bench.proxy.process import tree_cpu
from bench.proxy.report import Measurement, as_json, markdown, replace_section, rows

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"


@contextmanager
def server(*pieces: bytes, close: bool = False) -> Iterator[int]:
    """Answers every request of every connection with `pieces`, each sent by itself; the port it listens on."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            while b"\r\n\r\n" in connection.recv(4096):
                for piece in pieces:
                    connection.sendall(piece)
                if close:
                    return

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=_quietly, args=(serve, connection), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def _quietly(serve: Callable[[socket.socket], None], connection: socket.socket) -> None:
    with suppress(OSError):  # the load generator goes away with a request on its way
        serve(connection)


def load(port: int) -> Load:
    return Load(port, "/", length=3, seconds=0.1, requests_per_user=1, connections=2)


@pytest.mark.parametrize("cuts", [(), (5,), (30, 38), (37,), (39,)], ids=str)
def test_good_answers_count_however_they_are_cut(cuts: tuple[int, ...]) -> None:
    edges = [0, *cuts, len(GOOD)]
    with server(*(GOOD[start:end] for start, end in pairwise(edges))) as port:
        result = run(load(port))
    assert (result.errors, result.first_error) == (0, "")
    assert result.requests > 2
    assert result.canary == result.requests  # the last byte is "c"


@pytest.mark.parametrize(
    ("answer", "close", "words"),
    [
        (GOOD.replace(b"200 OK", b"502 Bad"), False, "not the answer"),
        (GOOD.replace(b"3", b"2"), False, "not the answer"),
        (b"HTTP/1.1 200 OK\r\n\r\nabc", False, "not the answer"),
        (GOOD + b"d", False, "more bytes"),
        (GOOD[:-1], True, "was closed"),
    ],
)
def test_wrong_answers_are_errors(answer: bytes, close: bool, words: str) -> None:
    with server(answer, close=close) as port:
        result = run(load(port))
    assert result.requests == 0
    assert result.errors > 0
    assert words in result.first_error


def test_cpu_time_of_children_counts() -> None:
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    before = tree_cpu(os.getpid())
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    subprocess.run([sys.executable, "-c", child], check=True)
    assert tree_cpu(os.getpid()).since(before).total_us >= 290_000


M = Measurement("small", "nginx", 1, 1000, 0, 0, 50_000.0, 4.0, 8.0)


def test_a_ratio_is_to_nginx_in_the_same_round() -> None:
    mine = replace(M, peer="canaryproxy", user_us=10.0, canary=50)
    slow = [replace(m, round=2, user_us=2 * m.user_us, system_us=2 * m.system_us) for m in (M, mine)]
    measured = [M, mine, *slow]
    nginx, row = rows(measured)
    assert (nginx.ratio and nginx.ratio.median, row.ratio and row.ratio.median) == (1.0, 1.5)
    assert (row.cpu_us.least, row.cpu_us.median, row.cpu_us.greatest) == (18.0, 27.0, 36.0)
    assert row.canary_percent == 5.0
    text = markdown([row], ["a machine."])
    assert (
        "| small | canaryproxy | 27.0 (18.0..36.0) | 15.0 + 12.0 | 1.50 (1.50..1.50) | 50,000 (50,000..50,000) | 5.0 % | 0 |"
        in text
    )
    assert len(as_json(measured, ["a machine."])["measurements"]) == 4


def test_a_section_of_a_readme_is_replaced() -> None:
    text = "a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb"
    assert replace_section(text, "x", "new") == "a\n<!-- x: begin -->\nnew\n<!-- x: end -->\nb"
    with pytest.raises(ValueError, match="not both there"):
        replace_section(text, "y", "new")
