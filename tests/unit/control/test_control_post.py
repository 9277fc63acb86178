"""One POST to real servers that answer well, badly, without end or not at all."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from certificates import Authority
from hook_receiver import Receiver, hang

from canaryproxy.config.hooks import Hook
from canaryproxy.control.post import LONGEST_PAUSE, Answer, Post, back_off


@pytest.fixture
async def post() -> AsyncIterator[Post]:
    made = Post()
    yield made
    await made.close()


async def garbled(raw: bytes, post: Post, **options: object) -> Answer:
    """What comes of a server that sends these bytes and ends."""

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(play, "127.0.0.1", 0)
    url = f"http://anna:pass@127.0.0.1:{server.sockets[0].getsockname()[1]}/s3cret"
    try:
        return await post(Hook.model_validate({"type": "event", "url": url, **options}), b"{}", "application/json", None)
    finally:
        server.close()
        await server.wait_closed()


async def test_body_headers_and_key_arrive(receiver: Receiver, post: Post) -> None:
    receiver.says = [(202, "\n  all is well \nmore")]
    hook = receiver.hook(headers={"Authorization": "Bearer x"})
    answer = await post(hook, b'{"a":1}', "application/json", "key/1")
    assert (answer, answer.ok, answer.words) == (Answer(202, "all is well"), True, "answered 202: all is well")
    ((headers, body),) = receiver.got
    assert body == {"a": 1}
    assert headers["Authorization"] == "Bearer x"
    assert (headers["Content-Type"], headers["Idempotency-Key"]) == ("application/json", "key/1")
    assert "Accept-Encoding" not in headers


async def test_user_and_password_of_the_url_are_sent(receiver: Receiver, post: Post) -> None:
    hook = receiver.hook()
    secret = hook.model_copy(update={"url": hook.url.replace("://", "://anna:pass@")})
    assert (await post(secret, b"{}", "text/plain", None)).ok
    assert receiver.got[0].headers["Authorization"] == "Basic YW5uYTpwYXNz"
    assert "Idempotency-Key" not in receiver.got[0].headers


async def test_a_redirect_is_no_yes_and_is_not_followed(receiver: Receiver, post: Post) -> None:
    async def elsewhere(request: web.Request) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": f"http://127.0.0.1:{receiver.port}/there"})

    receiver.says = [elsewhere]
    answer = await post(receiver.hook(), b"{}", "application/json", None)
    assert (answer.ok, answer.words) == (False, "answered 307 (redirects are not followed)")
    assert len(receiver.got) == 1


async def test_silence_is_no_answer_in_time(receiver: Receiver, post: Post) -> None:
    receiver.says = [hang]
    answer = await post(receiver.hook(timeout="50ms"), b"{}", "application/json", None)
    assert (answer.status, answer.words) == (0, "no answer within 50ms")


async def test_a_body_without_end_is_read_for_a_while_only(receiver: Receiver, post: Post) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65536)

    receiver.says = [endless]
    answer = await post(receiver.hook(), b"{}", "application/json", None)
    assert (answer.status, answer.text) == (200, "x" * 200)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "the connection ended without an answer"),
        (b"no http at all\r\n\r\n", "its answer is no HTTP that can be read (Bad Request)"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", "its answer is no HTTP that can be read (Bad Request)"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", "failed (ClientPayloadError)"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nred \x1b[31m \xff!", "answered 200: red ?[31m �!"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Encoding: gzip\r\n\r\nabc", "answered 200: abc"),
        (b"HTTP/1.1 429 Slow\r\nContent-Length: 0\r\nRetry-After: 7\r\n\r\n", "answered 429"),
    ],
)
async def test_rubbish_is_said_to_be_so_without_the_url(raw: bytes, words: str, post: Post) -> None:
    answer = await garbled(raw, post)
    assert answer.words == words
    assert not {"s3cret", "pass"} & set(answer.words.split())


@pytest.mark.parametrize(("written", "seconds"), [("7", 7), ("99999", LONGEST_PAUSE), ("-1", 0), ("Wed, 21 Oct", 0), ("٣", 0)])
async def test_retry_after_is_bounded(written: str, seconds: float, post: Post) -> None:
    raw = f"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nRetry-After: {written}\r\n\r\n".encode()
    assert (await garbled(raw, post)).retry_after == seconds


async def test_nobody_listens(post: Post) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for host in ("127.0.0.1", "nowhere.invalid"):
        hook = Hook.model_validate({"type": "event", "url": f"http://anna:pass@{host}:{port}/s3cret"})
        answer = await post(hook, b"{}", "application/json", None)
        assert answer.words.startswith("cannot connect (")
        assert "s3cret" not in answer.words


async def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path, post: Post) -> None:
    issued = Authority(tmp_path).issue("localhost")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(issued.certificate, issued.key)
    runner = web.AppRunner(web.Application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    hook = Hook.model_validate({"type": "event", "url": f"https://localhost:{runner.addresses[0][1]}/"})
    answer = await post(hook, b"{}", "application/json", None)
    await runner.cleanup()
    assert answer.words.startswith("its certificate is not trusted (")


def test_pauses_grow_to_five_minutes_and_are_spread() -> None:
    pauses = [back_off(tries, "id") for tries in range(1, 30)]
    assert all(2**n / 2 <= pause <= 2**n for n, pause in enumerate(pauses[:8]))
    assert all(LONGEST_PAUSE / 2 <= pause <= LONGEST_PAUSE for pause in pauses[9:])
    assert back_off(5, "id") == pauses[4]
    assert len({back_off(5, f"{n}") for n in range(50)}) == 50
