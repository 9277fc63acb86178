"""TLS contexts, by handshakes in memory; what uvloop's TLS transports do, by connections on loopback."""

from __future__ import annotations

import asyncio
import logging
import ssl
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop
from certificates import Authority, Issued

from canaryproxy.config.listening import Sni, Tls
from canaryproxy.config.upstreams import UpstreamTls
from canaryproxy.proxy.tls import (
    DownstreamContexts,
    UpstreamContext,
    count_acknowledged,
    ignore_unreadable_names,
    set_buffer_limits,
)

NAME = "shop.example.com"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def issued(authority: Authority) -> Issued:
    return authority.issue(NAME)


def shake(
    server: ssl.SSLContext, client: ssl.SSLContext, name: str | None = NAME, session: ssl.SSLSession | None = None
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends after their handshake, and after the server has said something; raises what either end does not take."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = client.wrap_bio(down, up, server_hostname=name, session=session), server.wrap_bio(up, down, server_side=True)
    for end in ends * 3:
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()
    ends[1].write(b"hello")
    assert ends[0].read() == b"hello"
    return ends


def trusting(authority: Authority, **changes: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.ca)
    for name, value in changes.items():
        setattr(context, name, value)
    return context


def names_in(end: ssl.SSLObject) -> list[str]:
    """The names in the certificate that this end was shown."""
    certificate = end.getpeercert()
    return [str(value) for _, value in cast(Any, certificate)["subjectAltName"]] if certificate else []


# For clients.


def test_what_is_spoken(authority: Authority, issued: Issued) -> None:
    context = DownstreamContexts(Tls(**issued._asdict())).context
    client = trusting(authority)
    client.set_alpn_protocols(["h2", "http/1.1"])
    end = shake(context, client)[0]
    assert (end.version(), end.selected_alpn_protocol(), end.compression()) == ("TLSv1.3", "http/1.1", None)
    assert names_in(end) == [NAME]
    old = trusting(authority, maximum_version=ssl.TLSVersion.TLSv1_2)
    cipher = shake(context, old)[0].cipher()
    assert cipher is not None
    assert cipher[0] == "ECDHE-ECDSA-AES128-GCM-SHA256", "the first that we prefer, not the client's first"
    assert context.options & ssl.OP_NO_RENEGOTIATION


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    ("least", "most", "ciphers"),
    [
        ("1.2", ssl.TLSVersion.TLSv1_1, "DEFAULT:@SECLEVEL=0"),
        ("1.3", ssl.TLSVersion.TLSv1_2, "DEFAULT"),
        ("1.2", ssl.TLSVersion.TLSv1_2, "ECDHE+AES+SHA384:!AESGCM"),  # not authenticated with its data
        ("1.2", ssl.TLSVersion.TLSv1_2, "AES128-GCM-SHA256"),  # no forward secrecy
    ],
)
def test_what_is_not_spoken(authority: Authority, issued: Issued, least: str, most: ssl.TLSVersion, ciphers: str) -> None:
    context = DownstreamContexts(Tls.model_validate({**issued._asdict(), "min_version": least})).context
    client = trusting(authority, minimum_version=ssl.TLSVersion.MINIMUM_SUPPORTED, maximum_version=most)
    client.set_ciphers(ciphers)
    with pytest.raises(ssl.SSLError):
        shake(context, client)


def test_each_name_has_its_certificate(authority: Authority, issued: Issued) -> None:
    def entry(host: str, file: str) -> Sni:
        return Sni(hosts=(host,), **authority.issue(file, file=file)._asdict())

    sni = (entry("a.example.com", "exact"), entry("*.example.com", "wild"), entry("*.deep.example.com", "deep"))
    context = DownstreamContexts(Tls(**issued._asdict(), sni=sni)).context
    client = trusting(authority, check_hostname=False)
    asked = {
        "a.example.com": "exact",
        "A.Example.COM": "exact",
        "a.example.com.": "exact",
        "b.example.com": "wild",
        "b.c.example.com": "wild",
        "b.a.example.com": "wild",
        "b.deep.example.com": "deep",
        "deep.example.com": "wild",
        "example.com": NAME,
        "elsewhere": NAME,
        None: NAME,
    }
    assert {name: names_in(shake(context, client, name)[0])[0] for name in asked} == asked


def test_sessions_are_resumed(authority: Authority, issued: Issued) -> None:
    context = DownstreamContexts(Tls(**issued._asdict())).context
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        client = trusting(authority, maximum_version=version)
        session = shake(context, client)[0].session
        assert shake(context, client, session=session)[0].session_reused


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_client_certificates(tmp_path: Path, authority: Authority, issued: Issued, version: ssl.TLSVersion) -> None:
    settings = {**issued._asdict(), "client_ca": authority.ca}
    required = DownstreamContexts(Tls.model_validate(settings)).context
    optional = DownstreamContexts(Tls.model_validate({**settings, "client_auth": "optional"})).context
    nobody, member, stranger = (trusting(authority, maximum_version=version) for _ in range(3))
    member.load_cert_chain(*authority.issue("member.example", file="member"))
    stranger.load_cert_chain(*Authority(tmp_path, "other").issue("member.example", file="stranger"))
    for context in (required, optional):
        assert names_in(shake(context, member)[1]) == ["member.example"]
        with pytest.raises(ssl.SSLError):
            shake(context, stranger)
    assert names_in(shake(optional, nobody)[1]) == []
    with pytest.raises(ssl.SSLError):
        shake(required, nobody)


def test_an_encrypted_key_asks_nobody(tmp_path: Path, issued: Issued) -> None:
    key = tmp_path / "encrypted.key"
    key.write_text(
        "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00000000000000000000000000000000\n\n"
        f"{'A' * 64}\n-----END EC PRIVATE KEY-----\n"
    )
    with pytest.raises(ssl.SSLError):
        DownstreamContexts(Tls(certificate=issued.certificate, key=str(key)))


def test_unreadable_names_are_refused_silently(
    authority: Authority, issued: Issued, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    ignore_unreadable_names()
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        trusting(authority).wrap_bio(down, up, server_hostname=NAME).do_handshake()
    hello = up.read().replace(NAME.encode(), b"\xff" * len(NAME))
    up.write(hello)
    server = DownstreamContexts(Tls(**issued._asdict())).context.wrap_bio(up, down, server_side=True)
    with pytest.raises(ssl.SSLError, match="callback failed"):
        server.do_handshake()
    assert capsys.readouterr().err == ""

    class Loud:
        def __del__(self) -> None:
            raise RuntimeError("other things are still said")

    Loud()
    assert "other things are still said" in capsys.readouterr().err


# Files that change.


class Renewal:
    """A listener whose time is told by the test."""

    def __init__(self, authority: Authority, settings: Tls) -> None:
        self.contexts = DownstreamContexts(settings)
        self.client = trusting(authority, check_hostname=False)
        self.now = 1000.0
        self.first = self.contexts.context
        self.contexts.reload_if_changed(self.now)

    def look(self, seconds: float = 2.0) -> None:
        self.now += seconds
        self.contexts.reload_if_changed(self.now)

    def shown(self, name: str = NAME) -> str:
        return names_in(shake(self.contexts.context, self.client, name)[0])[0]


def test_a_new_certificate_is_used_without_a_restart(
    authority: Authority, issued: Issued, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    renewal = Renewal(authority, Tls(**issued._asdict()))
    authority.issue("new.example")
    assert renewal.shown() == NAME
    renewal.look()
    assert renewal.shown() == NAME, "it may still be written to"
    renewal.look(1.9)
    assert renewal.shown() == NAME, "the files are not looked at so often"
    renewal.look(0.1)
    assert renewal.shown() == "new.example"
    assert renewal.contexts.context is renewal.first, "a server that has it sees the new certificate"
    renewal.look()
    assert [record.getMessage() for record in caplog.records] == [f"{issued.certificate}, {issued.key}: read again"]


def test_a_file_that_is_being_written_is_left_alone(authority: Authority, issued: Issued) -> None:
    renewal = Renewal(authority, Tls(**issued._asdict()))
    content = Path(authority.issue("new.example").certificate).read_text()
    for part in (content[:100], content[:200], content):
        Path(issued.certificate).write_text(part)
        renewal.look()
        assert renewal.shown() == NAME
    renewal.look()
    assert renewal.shown() == "new.example"


@pytest.mark.parametrize("broken", ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", None])
def test_a_broken_file_changes_nothing(
    authority: Authority, issued: Issued, broken: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    other = authority.issue("other.example.com", file="other")
    renewal = Renewal(authority, Tls(**issued._asdict(), sni=(Sni(hosts=("other.example.com",), **other._asdict()),)))
    if broken is None:
        Path(issued.certificate).unlink()
    else:
        Path(issued.certificate).write_text(broken)
    authority.issue("renewed.example.com", file="other")
    for _ in range(5):
        renewal.look()
    assert renewal.shown() == NAME
    assert renewal.shown("other.example.com") == "renewed.example.com", "the others go on"
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    assert errors[0].startswith(f"{issued.certificate}, {issued.key}: cannot be used (")
    assert errors[0].endswith("what was read before stays in use")
    authority.issue("mended.example")
    renewal.look()
    renewal.look()
    assert renewal.shown() == "mended.example"


def test_a_certificate_without_its_key_waits_for_it(authority: Authority, issued: Issued) -> None:
    renewal = Renewal(authority, Tls(**issued._asdict()))
    key = Path(issued.key).read_text()
    new = Path(authority.issue("new.example").key).read_text()
    Path(issued.key).write_text(key)
    for _ in range(3):
        renewal.look()
    assert renewal.shown() == NAME
    Path(issued.key).write_text(new)
    renewal.look()
    renewal.look()
    assert renewal.shown() == "new.example"


def test_a_new_client_authority_ends_the_sessions_of_the_old_one(tmp_path: Path, authority: Authority, issued: Issued) -> None:
    file = tmp_path / "clients.pem"
    file.write_bytes(Path(authority.ca).read_bytes())
    renewal = Renewal(authority, Tls(**issued._asdict(), client_ca=str(file)))
    renewal.client.load_cert_chain(*authority.issue("member.example", file="member"))
    session = shake(renewal.contexts.context, renewal.client)[0].session
    assert shake(renewal.contexts.context, renewal.client, session=session)[0].session_reused
    other = Authority(tmp_path, "other")
    file.write_bytes(Path(other.ca).read_bytes())
    renewal.look()
    renewal.look()
    with pytest.raises(ssl.SSLError):
        shake(renewal.contexts.context, renewal.client, session=session)
    renewal.client.load_cert_chain(*other.issue("member.example", file="member"))
    assert renewal.shown() == NAME


# For upstreams.


def test_an_upstream_is_verified(tmp_path: Path, authority: Authority, issued: Issued) -> None:
    server = DownstreamContexts(Tls(**issued._asdict())).context
    trusted = UpstreamContext(UpstreamTls(ca=authority.ca))
    assert shake(server, trusted.context)[0].selected_alpn_protocol() == "http/1.1"
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake(server, trusted.context, "other.example")
    for settings in (UpstreamTls(), UpstreamTls(ca=Authority(tmp_path, "other").ca)):
        with pytest.raises(ssl.SSLCertVerificationError):
            shake(server, UpstreamContext(settings).context)
    assert shake(server, UpstreamContext(UpstreamTls(verify=False)).context, "other.example")


def test_the_name_that_an_upstream_is_asked_for() -> None:
    assert UpstreamContext(UpstreamTls()).server_name("10.0.0.1") == "10.0.0.1"
    assert UpstreamContext(UpstreamTls(server_name="app.internal")).server_name("10.0.0.1") == "app.internal"


def test_an_address_is_verified_too(authority: Authority) -> None:
    server = DownstreamContexts(Tls(**authority.issue("127.0.0.1")._asdict())).context
    client = UpstreamContext(UpstreamTls(ca=authority.ca)).context
    assert shake(server, client, "127.0.0.1")
    with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
        shake(server, client, "127.0.0.2")


def test_our_certificate_for_upstreams_is_renewed(authority: Authority, issued: Issued) -> None:
    server = DownstreamContexts(Tls(**issued._asdict(), client_ca=authority.ca)).context
    ours = authority.issue("proxy.example", file="proxy")
    upstream = UpstreamContext(UpstreamTls(ca=authority.ca, certificate=ours.certificate, key=ours.key))
    assert names_in(shake(server, upstream.context)[1]) == ["proxy.example"]
    authority.issue("renewed.example", file="proxy")
    for now in (1000.0, 1002.0):
        upstream.reload_if_changed(now)
    assert names_in(shake(server, upstream.context)[1]) == ["renewed.example"]


# With uvloop.


class Recorder(asyncio.Protocol):
    """What the loop told it."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.received = 0
        self.transport: Any = None
        self.ended = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        set_buffer_limits(cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        self.received += len(data)

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def eof_received(self) -> None:
        self.told.append("eof")

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append("lost")
        self.ended.set()


def connected(
    server: ssl.SSLContext | None, client: ssl.SSLContext | None, scenario: Callable[[Recorder, Recorder], Awaitable[None]]
) -> None:
    """Play a scenario with the two ends of one connection, first the server's."""

    async def play() -> None:
        loop = asyncio.get_running_loop()
        accepted: asyncio.Queue[Recorder] = asyncio.Queue()

        class Accepted(Recorder):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                super().connection_made(transport)
                accepted.put_nowait(self)

        async with asyncio.timeout(10):
            listening = await loop.create_server(Accepted, "127.0.0.1", 0, ssl=server)
            port = listening.sockets[0].getsockname()[1]
            name = NAME if client else None
            _, ours = await loop.create_connection(Recorder, "127.0.0.1", port, ssl=client, server_hostname=name)
            theirs = await accepted.get()
            try:
                await scenario(theirs, ours)
            finally:
                for end in (theirs, ours):
                    end.transport.abort()
                    await end.ended.wait()
                listening.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(play())


@pytest.fixture(params=["tcp", "tls"])
def contexts(
    request: pytest.FixtureRequest, authority: Authority, issued: Issued
) -> tuple[ssl.SSLContext, ssl.SSLContext] | tuple[None, None]:
    if request.param == "tcp":
        return None, None
    return DownstreamContexts(Tls(**issued._asdict())).context, UpstreamContext(UpstreamTls(ca=authority.ca)).context


def test_what_came_before_the_end_is_read(contexts: tuple[Any, Any]) -> None:
    async def scenario(theirs: Recorder, ours: Recorder) -> None:
        ours.transport.pause_reading()
        theirs.transport.write(bytes(100_000))
        await until(lambda: count_acknowledged(theirs.transport) >= 100_000)
        sent = count_acknowledged(theirs.transport)
        theirs.transport.close()
        if contexts[0] is not None:
            await until(lambda: count_acknowledged(theirs.transport) > sent)  # the close_notify
            theirs.transport.abort()  # as a server that does not wait for ours
        await theirs.ended.wait()
        for _ in range(10):
            await asyncio.sleep(0)
        assert (ours.received, ours.told) == (0, [])
        ours.transport.resume_reading()
        await ours.ended.wait()
        assert (ours.received, ours.told) == (100_000, ["eof", "lost"])

    connected(*contexts, scenario)


def test_a_writer_is_paused_by_unsent_bytes_only(contexts: tuple[Any, Any]) -> None:
    async def scenario(theirs: Recorder, ours: Recorder) -> None:
        for _ in range(5):
            theirs.transport.write(b"small")
        assert theirs.told == []
        ours.transport.pause_reading()
        size = 25
        while not theirs.told and size < 64 << 20:
            theirs.transport.write(bytes(16384))
            size += 16384
        assert theirs.told == ["pause"]
        assert 0 < theirs.transport.get_write_buffer_size() < 40_000
        sent = count_acknowledged(theirs.transport)
        ours.transport.resume_reading()
        await until(lambda: theirs.told == ["pause", "resume"] and ours.received == size)
        assert count_acknowledged(theirs.transport) > sent > 0
        theirs.transport.abort()
        await theirs.ended.wait()
        await asyncio.sleep(0)
        assert count_acknowledged(theirs.transport) == 0

    connected(*contexts, scenario)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # what is waited for tells nobody
        await asyncio.sleep(0.001)
