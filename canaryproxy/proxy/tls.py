"""TLS: the contexts for clients and for upstreams, made anew when their files change, and how uvloop's TLS transports differ.

Reads files; made when a worker starts, asked again by its sweep. The choices are those of RFC 9325 and of Mozilla's
"intermediate" server configuration without its finite-field ciphers; RFC 6066 section 3 for the server's names.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
import struct
import sys
from asyncio import BufferedProtocol, Transport
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from canaryproxy.config.listening import Tls
from canaryproxy.config.upstreams import UpstreamTls

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

log = logging.getLogger("canaryproxy.worker")

#: For SO_LINGER: closing throws away what is unsent, and says so.
_RESET: Final = struct.pack("ii", 1, 0)

#: Of TLS 1.2; those of 1.3 are all good. Forward secrecy and authenticated encryption only.
_CIPHERS: Final = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)
_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_ALPN: Final = ["http/1.1"]
#: Changed files are looked for so often, in seconds, and used when they have rested from one look to the next.
_LOOK_SECONDS: Final = 2.0
_NO_PASSWORD: Final = ""  # without one, OpenSSL would ask for it at the terminal
_RECORD: Final = 16 * 1024  # the largest that TLS makes (RFC 8446 section 5.1)
_BYTES_ACKED: Final = slice(120, 128)  # tcpi_bytes_acked in struct tcp_info, linux/tcp.h, since 4.1

#: What tells a file from the one before: time of change (ns), size, inode; None if there is none.
Stamp = tuple[int, int, int] | None


class ReloadingContext:
    """A context made from files; made anew when they have changed, and kept as it is while they cannot be used."""

    def __init__(self, files: Iterable[str | None], build: Callable[[], ssl.SSLContext]) -> None:
        """Raises OSError, as `build` does, if a file cannot be used (`config.files` has asked before)."""
        self._files = tuple(file for file in files if file)
        self._build = build
        self._used = self._seen = self._look()
        self._complained: tuple[Stamp, ...] = ()
        self._next_look = 0.0
        self.context = build()

    def reload_if_changed(self, now: float) -> None:
        """Look at the files if it is time, and use what is new (monotonic seconds)."""
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_SECONDS
        stamps = self._look()
        if stamps != self._used and stamps == self._seen:  # half a file may be a certificate without its chain
            self._reload(stamps)
        self._seen = stamps

    def _reload(self, stamps: tuple[Stamp, ...]) -> None:
        try:
            self.context = self._build()
        except OSError as error:
            if stamps != self._complained:
                log.error("%s: cannot be used (%s); what was read before stays in use", ", ".join(self._files), _reason(error))
            self._complained = stamps
        else:
            self._used = stamps
            log.info("%s: read again", ", ".join(self._files))

    def _look(self) -> tuple[Stamp, ...]:
        return tuple(map(_stamp, self._files))


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not in PEM form").lower().replace("_", " ")
    return (error.strerror or str(error)).lower()


def _stamp(file: str) -> Stamp:
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


# For clients.


class DownstreamContexts:
    """What a TLS listener answers with: the certificate of the name that was asked for, the default one for all others."""

    def __init__(self, settings: Tls) -> None:
        """Raises OSError if a file cannot be used."""
        self._settings = settings
        ca = settings.client_ca
        # Sessions live in this one, whose certificate is never used: they end when another client CA counts.
        self._front = ReloadingContext((ca,), self._build_front)
        self._default = self._reloading(settings.certificate, settings.key)
        self._all = [self._front, self._default]
        self._by_name: dict[str, ReloadingContext] = {}
        for entry in settings.sni:
            context = self._reloading(entry.certificate, entry.key)
            self._all.append(context)
            self._by_name.update((host, context) for host in entry.hosts)

    @property
    def context(self) -> ssl.SSLContext:
        """The context for the next connection. A server that keeps one for ever sees new certificates too."""
        return self._front.context

    def reload_if_changed(self, now: float) -> None:
        """Use files that have changed for the handshakes from now on (monotonic seconds; called by the sweep)."""
        for context in self._all:
            context.reload_if_changed(now)

    def _reloading(self, certificate: str, key: str) -> ReloadingContext:
        return ReloadingContext(
            (certificate, key, self._settings.client_ca), lambda: _server_context(self._settings, certificate, key)
        )

    def _build_front(self) -> ssl.SSLContext:
        context = _server_context(self._settings)
        context.sni_callback = self._on_name
        return context

    def _on_name(self, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        connection.context = self._choose(name).context

    def _choose(self, name: str | None) -> ReloadingContext:
        """An exact name wins over the nearest wildcard, that over the default."""
        if name is None or not self._by_name:
            return self._default
        rest = name.lower().rstrip(".")
        found = self._by_name.get(rest)
        while found is None and "." in rest:
            rest = rest.partition(".")[2]
            found = self._by_name.get("*." + rest)
        return found or self._default


def _server_context(settings: Tls, certificate: str = "", key: str = "") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[settings.min_version]
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(_ALPN)
    context.options |= ssl.OP_NO_RENEGOTIATION  # Python's own: our order of ciphers counts, no compression
    if certificate:
        context.load_cert_chain(certificate, key, password=_NO_PASSWORD)
    if settings.client_ca:
        context.load_verify_locations(settings.client_ca)
        context.verify_mode = ssl.CERT_OPTIONAL if settings.client_auth == "optional" else ssl.CERT_REQUIRED
    return context


# For upstreams.


class UpstreamContext(ReloadingContext):
    """How a pool's https servers are connected to."""

    def __init__(self, settings: UpstreamTls) -> None:
        """Raises OSError if a file cannot be used."""
        self._name = settings.server_name
        super().__init__((settings.ca, settings.certificate, settings.key), lambda: _client_context(settings))

    def server_name(self, host: str) -> str:
        """The name to ask this server for, and to find in its certificate."""
        return self._name or host


def _client_context(settings: UpstreamTls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies, hostname included
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(_ALPN)
    if not settings.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif settings.ca:
        context.load_verify_locations(settings.ca)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if settings.certificate:
        context.load_cert_chain(settings.certificate, settings.key, password=_NO_PASSWORD)
    return context


# What is different with uvloop 0.23.

_NOBODY: Final = BufferedProtocol()


def set_buffer_limits(transport: Transport) -> None:
    """Have the protocol paused as soon as bytes wait to be sent, TLS or not.

    With TLS these come after about 64 KiB that wait, unseen, in the connection below. A limit of 0 would pause at each write, one
    below a record at the start, for the handshake's last words. The limit of 1 for reading keeps what a peer sends before it
    closes: uvloop loses it when the protocol does not read just then.
    """
    if transport.get_extra_info("ssl_object") is None:
        transport.set_write_buffer_limits(0)
    else:
        transport.set_write_buffer_limits(high=_RECORD, low=0)
        transport.set_read_buffer_limits(high=1, low=0)  # type: ignore[attr-defined]  # uvloop's own


def count_taken(transport: Transport) -> int:
    """A number that grows by the bytes that the peer takes, whatever buffers lie between."""
    sock = transport.get_extra_info("socket")
    if getattr(sock, "family", None) in (socket.AF_INET, socket.AF_INET6):
        return count_acknowledged(transport)
    return -transport.get_write_buffer_size()


def reset(transport: Transport) -> None:
    """End a connection that is still there with a reset, so that what was sent cannot be taken for whole."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()


def let_go(transport: Transport) -> None:
    """Have a transport whose connection is lost forget its protocol.

    Over TLS it would keep that one's methods, and both would keep 256 KiB of buffers until a full collection of garbage, which a
    worker hardly ever has: 1000 clients that had gone held 212 MiB.
    """
    if transport.get_extra_info("ssl_object") is not None:
        transport.set_protocol(_NOBODY)


def count_acknowledged(transport: Transport) -> int:
    """Bytes that the peer's kernel has taken so far: what tells a slow peer from a stalled one where buffers hide it.

    0 if the connection is gone.
    """
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return 0
    return int.from_bytes(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)[_BYTES_ACKED], sys.byteorder)


def ignore_unreadable_names() -> None:
    """Have this process say nothing of clients that ask for a name of bytes above 127; they are refused by `ssl` all the same.

    It can only tell `sys.unraisablehook` of them, which prints ten lines: anybody could fill the disk with these.
    """
    usual = sys.unraisablehook

    def hook(unraisable: UnraisableHookArgs) -> None:
        if not (isinstance(unraisable.exc_value, UnicodeDecodeError) and isinstance(unraisable.object, bytes)):
            usual(unraisable)

    sys.unraisablehook = hook
