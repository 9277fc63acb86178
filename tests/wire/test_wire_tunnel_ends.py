"""Tunnels between plain connections: every byte, every kind of end (C10, C12, C14)."""

from __future__ import annotations

import asyncio
import errno
import gc
import hashlib
import os
import socket

import pytest
from joined import READ_SIZE, Before, joined, on_uvloop, until

from canaryproxy.proxy.tunnel import End, Tunnel

SIDES = pytest.mark.parametrize("side", ["client", "upstream"])


# Bytes.


@on_uvloop
async def test_what_came_early_goes_first() -> None:
    async with joined(start=False) as both:
        both.worker.send(both.near["client"], b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        both.make().start(b"from upstream", b"from client")
        await both.client.send(b", more")
        assert await both.client.read(47 + 2) == b"HTTP/1.1 101 Switching Protocols\r\n\r\nfrom upstream"[:49]
        assert await both.upstream.read(17) == b"from client, more"
        await both.upstream.send(b"!" * 100_000)
        assert await both.client.read(100_000) == b"!" * 100_000
        both.client.send_fin()
        both.upstream.send_fin()
        assert (await both.upstream.read_end(), await both.client.read_end()) == (b"", b"")
        assert await both.end() == (17, 13 + 100_000, "client")
        assert both.tunnel.reason == "eof"


@on_uvloop
async def test_what_could_not_be_sent_before_goes_first_too() -> None:
    async with joined(start=False, slow="client") as both:
        head = os.urandom(2_000_000)
        both.near["client"].write(head)
        assert both.near["client"].get_write_buffer_size()
        both.make().start(b"then this")
        assert not both.near["upstream"].is_reading()
        await both.upstream.send(b", and this")
        assert await both.client.read(len(head) + 19) == head + b"then this, and this"
        assert both.near["upstream"].is_reading()


@on_uvloop
async def test_order_is_kept() -> None:
    async with joined() as both:
        end = both.near["client"].get_protocol()
        assert isinstance(end, End)
        for data in (b"small", b"large" * 10_000, b"small again"):  # in one turn of the loop, as TLS may tell it
            end.get_buffer(-1)[: len(data)] = data
            end.buffer_updated(len(data))
        end.eof_received()
        assert await both.upstream.read_end() == b"small" + b"large" * 10_000 + b"small again"


@SIDES
@on_uvloop
async def test_a_slow_side_holds_the_other_back(side: str) -> None:
    async with joined(slow=side) as both:
        slow, fast = both.side(side)
        data = os.urandom(8 << 20)
        sending = asyncio.ensure_future(fast.send(data))
        await until(both.near[side].get_write_buffer_size)
        for _ in range(20):
            await asyncio.sleep(0.001)
            assert both.near[side].get_write_buffer_size() <= READ_SIZE
        assert not both.near["upstream" if side == "client" else "client"].is_reading()
        await slow.send(b"the other direction goes on")
        assert await fast.read(27) == b"the other direction goes on"
        got = await slow.read(len(data))
        await sending
        assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()
        assert both.worker.buffers > 1, "a buffer that is still sent from must not be read into"


# Ends in order.


@SIDES
@on_uvloop
async def test_half_close(side: str) -> None:
    async with joined() as both:
        first, other = both.side(side)
        await first.send(b"the last request")
        first.send_fin()
        assert await other.read_end() == b"the last request"
        await other.send(b"the answer")
        other.send_fin()
        assert await first.read_end() == b"the answer"
        _, _, who = await both.end()
        assert who == side


@SIDES
@on_uvloop
async def test_the_end_follows_what_is_unsent(side: str) -> None:
    async with joined(slow="upstream" if side == "client" else "client") as both:
        first, other = both.side(side)
        name = "upstream" if side == "client" else "client"
        near, end = both.near[name], both.near[side].get_protocol()
        assert isinstance(end, End)
        await first.send(b"x" * 120_000)
        await until(near.get_write_buffer_size)
        end.eof_received()  # with the last bytes, as the loop may tell it
        for _ in range(2):  # what is unsent has all the time that it needs
            before = near.get_write_buffer_size()
            await other.read(25_000)
            await until(lambda before=before: near.get_write_buffer_size() != before)  # type: ignore[misc]  # a condition
            both.advance(19)
        assert await other.read_end() == b"x" * 70_000
        both.advance(29)
        await other.send(b"in time")
        assert await first.read(7) == b"in time"
        both.advance(2)
        assert await first.read_end() == b""
        assert (await both.end())[2] == side


@on_uvloop
async def test_ends_that_wait_at_the_start() -> None:
    async with joined(start=False) as both:
        await both.client.send(b"a")
        both.client.send_fin()
        await both.upstream.send(b"b")
        both.upstream.send_fin()
        both.make().start()
        assert (await both.client.read_end(), await both.upstream.read_end()) == (b"b", b"a")
        assert (await both.end())[:2] == (1, 1)


@on_uvloop
async def test_after_the_lingering_all_is_closed_in_order() -> None:
    async with joined() as both:
        both.client.send_fin()
        assert await both.upstream.read_end() == b""
        both.advance(29.9)
        await asyncio.sleep(0.002)
        assert not both.ended
        both.advance(0.2)
        assert await both.client.read_end() == b""
        assert (await both.end()) == (0, 0, "client")


@on_uvloop
async def test_idle() -> None:
    async with joined() as both:
        both.advance(3599)
        await both.upstream.send(b"x")
        assert await both.client.read(1) == b"x"
        both.advance(3599)
        await both.client.send(b"y")
        assert await both.upstream.read(1) == b"y"
        both.advance(3599)
        await asyncio.sleep(0.002)
        assert not both.ended
        both.advance(2)
        assert (await both.client.read_end(), await both.upstream.read_end()) == (b"", b"")
        assert await both.end() == (1, 1, "idle")
        assert both.tunnel.reason == "idle"


@on_uvloop
async def test_closed_by_the_proxy() -> None:
    async with joined() as both:
        await both.upstream.send(b"last words")
        await until(lambda: both.worker.outbox or both.tunnel.last_read)
        assert await both.client.read(10) == b"last words"
        both.tunnel.close("drain")
        both.tunnel.close("rollback")
        assert (await both.client.read_end(), await both.upstream.read_end()) == (b"", b"")
        assert await both.end() == (0, 10, "proxy")
        assert both.tunnel.reason == "drain"
        both.tunnel.close("late")
        assert both.tunnel.deadline == float("inf")


@on_uvloop
async def test_closed_by_the_proxy_with_a_slow_side() -> None:
    async with joined(slow="client") as both:
        sending = asyncio.ensure_future(both.upstream.send(bytes(8 << 20)))
        await until(both.near["client"].get_write_buffer_size)
        both.tunnel.close("drain")
        await asyncio.sleep(0.002)
        assert not both.ended, "what is unsent has a second"
        both.advance(1.1)
        assert (await both.end())[2] == "proxy"
        with pytest.raises(ConnectionResetError):
            await both.client.read_end()
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            await sending


# Ends in disorder.


@SIDES
@on_uvloop
async def test_a_reset_resets_the_other_side(side: str) -> None:
    async with joined() as both:
        broken, other = both.side(side)
        await broken.send(b"x")
        assert await other.read(1) == b"x"
        broken.reset()
        with pytest.raises(ConnectionResetError):
            await other.read_end()
        assert (await both.end())[2] == side
        assert both.tunnel.reason == "reset"


@SIDES
@on_uvloop
async def test_a_side_that_left_is_found_out_by_what_it_does_not_take(side: str) -> None:
    async with joined() as both:
        gone, other = both.side(side)
        gone.sock.close()
        assert await other.read_end() == b""
        await other.send(b"answered by a reset")
        await asyncio.sleep(0.002)
        await other.send(b"which the next write sees")
        assert (await both.end())[2] == side
        await until(lambda: other.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.EPIPE)


@SIDES
@on_uvloop
async def test_a_side_that_takes_nothing(side: str) -> None:
    async with joined(slow=side) as both:
        stuck, other = both.side(side)
        near = both.near[side]
        sending = asyncio.ensure_future(other.send(bytes(8 << 20)))
        await until(near.get_write_buffer_size)
        for _ in range(6):
            before = near.get_write_buffer_size()
            both.advance(10)
            await stuck.read(40_000)
            await until(lambda before=before: near.get_write_buffer_size() != before)  # type: ignore[misc]  # a condition
            assert not both.ended, "it takes some"
        await stuck.send(b"that it sends is no excuse")
        assert await other.read(26) == b"that it sends is no excuse"
        both.advance(21)
        both.advance(21)  # the first look finds what was taken since the last
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            await sending
        assert (await both.end())[2] == side
        assert both.tunnel.reason == "stalled"
        with pytest.raises(ConnectionResetError):
            await stuck.read_end()


@on_uvloop
async def test_nothing_is_left() -> None:
    gc.collect()
    gc.disable()
    try:
        async with joined() as both:
            await both.client.send(b"x")
            await both.upstream.read(1)
            both.client.send_fin()
            both.upstream.send_fin()
            await both.end()
            del both.tunnel
            both.near.clear()
            await asyncio.sleep(0.002)
            left = [type(thing) for thing in gc.get_objects() if isinstance(thing, (End, Tunnel, Before))]
            assert not left, "a cycle keeps it"
    finally:
        gc.enable()


# Sockets.


@on_uvloop
async def test_dead_peers_are_looked_for() -> None:
    async with joined() as both:
        for transport in both.near.values():
            sock = transport.get_extra_info("socket")
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            asked = [
                sock.getsockopt(socket.IPPROTO_TCP, option)
                for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            ]
            assert asked == [60, 10, 6]


def unix_pair(_buffer: int) -> tuple[socket.socket, socket.socket]:
    near, far = socket.socketpair()
    far.setblocking(False)
    return near, far


@on_uvloop
async def test_unix_sockets() -> None:
    async with joined(pair=unix_pair) as both:
        await both.client.send(b"x" * 50_000)
        assert await both.upstream.read(50_000) == b"x" * 50_000
        await both.client.send(b"last words")
        both.client.sock.close()
        assert await both.upstream.read_end() == b"last words"
        both.upstream.send_fin()
        assert await both.end() == (50_010, 0, "client")
