"""The supervisor process: owns the listening sockets and the shared memory; forks, waits, restarts. No event loop, one thread."""

from canaryproxy.supervisor.main import serve

__all__ = ["serve"]
