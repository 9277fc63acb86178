"""All listening sockets of one worker: plain ones, and those where TLS or a PROXY header comes first. Called by the worker."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Sequence
from ipaddress import ip_network
from typing import TYPE_CHECKING, Final

from canaryproxy.config.quantities import Address
from canaryproxy.config.schema import Config
from canaryproxy.proxy.accept import Listener
from canaryproxy.proxy.downstream import Downstream
from canaryproxy.proxy.ingress import Ingress, build_ingress
from canaryproxy.proxy.listening import PausableServer
from canaryproxy.proxy.tls import DownstreamContexts, ignore_unreadable_names
from canaryproxy.shared.layout import Ack

if TYPE_CHECKING:
    from canaryproxy.proxy.worker import Worker

_NOWHERE: Final = Address("", 0)
#: Why a connection is closed before HTTP; all other reasons are those of the PROXY header.
_COUNTED: Final = {"tls_handshake": Ack.REFUSED_TLS, "error": Ack.REFUSED_TLS, "too_many_handshakes": Ack.REFUSED_TOO_MANY}


class Listeners:
    """Where clients arrive. `plain` are the rules of those who come in the clear."""

    def __init__(self, worker: Worker, config: Config, max_files: int) -> None:
        """`max_files` is RLIMIT_NOFILE. Raises OSError if a certificate cannot be used."""
        self._worker = worker
        self._config = config
        # Of the files, 80 % are for clients (`proxy.worker`), and some for upstreams: silence must not take the rest.
        self._most_pending = max(1, min(config.limits.tls_handshakes, max_files // 10))
        self.plain = build_ingress(config, config.listen or _NOWHERE, tls=False)
        self._contexts = DownstreamContexts(config.tls) if config.tls else None
        self._listeners: list[PausableServer | Listener] = []
        self._paused = False

    def start(self, sockets: Sequence[socket.socket], tls_sockets: Sequence[socket.socket]) -> None:
        """Accept clients from now on."""
        config = self._config
        for listening in sockets:
            if config.proxy_protocol is None:
                self._listeners.append(PausableServer(listening, lambda: Downstream(self._worker, self.plain)))
            else:
                self._listeners.append(self._listener(listening, self.plain, None))
        if config.tls is not None:
            ignore_unreadable_names()
            secure = build_ingress(config, config.tls.listen, tls=True)
            self._listeners += [self._listener(listening, secure, self._contexts) for listening in tls_sockets]
        for listener in self._listeners:
            listener.start()

    def _listener(self, listening: socket.socket, ingress: Ingress, contexts: DownstreamContexts | None) -> Listener:
        config, proxies = self._config, self._config.proxy_protocol
        return Listener(
            listening,
            lambda header: Downstream(self._worker, ingress, header),
            proxies=[ip_network(network) for network in proxies.from_] if proxies else None,
            header_timeout=proxies.timeout if proxies else 0.0,
            context=(lambda: contexts.context) if contexts is not None else None,
            handshake_timeout=config.tls.handshake_timeout if config.tls else 0.0,
            shutdown_timeout=config.timeouts.send_idle,  # it covers what is still unsent
            limit=self._most_pending,
        )

    @property
    def pending(self) -> int:
        """Connections that are accepted, but have not come to HTTP yet."""
        return sum(listener.pending for listener in self._listeners)

    def pause(self) -> None:
        """Leave those who come in the kernel's queue."""
        self._paused = True  # some may accept although others could not resume
        for listener in self._listeners:
            listener.pause()

    def resume(self) -> None:
        """Accept again, if that was paused."""
        if self._paused:
            accepting = [listener.resume() for listener in self._listeners]
            self._paused = not all(accepting)

    def sweep(self, now: float) -> None:
        """Look at what has its time (monotonic seconds)."""
        for listener in self._listeners:
            if isinstance(listener, Listener):
                listener.sweep(now)
        if self._contexts is not None:
            self._contexts.reload_if_changed(now)

    def take_refused(self) -> Counter[Ack]:
        """How many were closed before HTTP since the last call, by the word that counts them."""
        taken: Counter[Ack] = Counter()
        for listener in self._listeners:
            if isinstance(listener, Listener):
                del listener.refused["drained"]  # Counter: there or not; that is no fault
                for reason, count in listener.refused.items():
                    taken[_COUNTED.get(reason, Ack.REFUSED_PROXY_PROTOCOL)] += count
                listener.refused.clear()
        return taken

    def give_up(self) -> None:
        """Close what has not come to HTTP yet: the drain is over."""
        for listener in self._listeners:
            if isinstance(listener, Listener):
                listener.give_up()

    def close(self) -> None:
        """Accept no more."""
        for listener in self._listeners:
            listener.close()
