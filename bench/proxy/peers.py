"""The proxies that are compared, each set up for its best: one process or thread, connections to the origin kept.

Every peer is started once for a whole run and is idle while another is measured.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.proxy.process import free_ports

ROOT = Path(__file__).resolve().parents[2]
#: Share of users on the canary in canaryproxy's route.
CANARY_PERCENT = 5
SMALL = 100
LARGE = 1 << 20


@dataclass(frozen=True)
class Origin:
    """Two addresses of one nginx; `/` gives 100 bytes of `s` on the stable one, of `c` on the canary one; `/large` 1 MiB."""

    stable: int
    canary: int


@dataclass(frozen=True)
class Server:
    """A process to start: its command, the port it answers on, its version for the report."""

    name: str
    command: tuple[str, ...]
    port: int
    version: str


def find_program(name: str) -> str | None:
    """The path of a program; Debian keeps servers in sbin."""
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin")))


def _program(name: str) -> str:
    found = find_program(name)
    if found is None:
        raise RuntimeError(f"{name}: not installed; `apt-get install {name}`, or leave it out with --peers")
    return found


def _first_line(*command: str) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.stdout.strip().partition("\n")[0]


# As root nginx would give its workers to another user, who may not read the run's directory.
_NGINX = """\
{user}daemon off; worker_processes 1; pid {work}/{name}.pid; error_log {work}/{name}.error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off; tcp_nodelay on; keepalive_requests 1000000000;
    client_body_temp_path {work}/{name}.body; proxy_temp_path {work}/{name}.proxy; fastcgi_temp_path {work}/{name}.fastcgi;
    uwsgi_temp_path {work}/{name}.uwsgi; scgi_temp_path {work}/{name}.scgi;
{rest}
}}
"""

_NGINX_ORIGIN = """\
    sendfile on; tcp_nopush on;
    server {{ listen 127.0.0.1:{stable}; location = / {{ return 200 "{s}"; }} location = /large {{ root {work}; }} }}
    server {{ listen 127.0.0.1:{canary}; location = / {{ return 200 "{c}"; }} location = /large {{ root {work}; }} }}"""

_NGINX_PROXY = """\
    upstream origin {{ server 127.0.0.1:{origin}; keepalive 128; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection ""; }}
    }}"""


def _nginx_command(work: Path, name: str, rest: str) -> tuple[str, ...]:
    user = "user root; " if os.geteuid() == 0 else ""
    config = work / f"{name}.conf"
    config.write_text(_NGINX.format(user=user, work=work, name=name, rest=rest))
    return (_program("nginx"), "-e", str(work / f"{name}.start.log"), "-p", str(work), "-c", str(config))


def _nginx_version() -> str:
    return _first_line(_program("nginx"), "-v").rpartition("/")[2].partition(" ")[0]


def origin_server(work: Path) -> tuple[Server, Origin]:
    """The nginx that answers; it runs on the load generator's core."""
    (work / "large").write_bytes(os.urandom(LARGE))
    stable, canary = free_ports(2)
    rest = _NGINX_ORIGIN.format(stable=stable, canary=canary, work=work, s="s" * SMALL, c="c" * SMALL)
    return Server("origin", _nginx_command(work, "origin", rest), stable, _nginx_version()), Origin(stable, canary)


def _nginx(work: Path, origin: Origin) -> Server:
    (port,) = free_ports(1)
    rest = _NGINX_PROXY.format(port=port, origin=origin.stable)
    return Server("nginx", _nginx_command(work, "nginx", rest), port, _nginx_version())


_HAPROXY = """\
global
    nbthread 1
    maxconn 4096
defaults
    mode http
    option http-keep-alive
    http-reuse always
    timeout client 60s
    timeout server 60s
    timeout connect 5s
frontend in
    bind 127.0.0.1:{port}
    default_backend origin
backend origin
    server one 127.0.0.1:{origin}
"""


def _haproxy(work: Path, origin: Origin) -> Server:
    (port,) = free_ports(1)
    config = work / "haproxy.cfg"
    config.write_text(_HAPROXY.format(port=port, origin=origin.stable))
    program = _program("haproxy")
    version = _first_line(program, "-v").split()[2].partition("-")[0]
    return Server("haproxy", (program, "-db", "-f", str(config)), port, version)


def _aiohttp(_work: Path, origin: Origin) -> Server:
    (port,) = free_ports(1)
    version = _first_line(sys.executable, "-c", "import aiohttp; print(aiohttp.__version__)")
    return Server("aiohttp", (sys.executable, "-m", "bench.proxy.naive", str(port), str(origin.stable)), port, version)


# The rollout starts by itself and stays on its step for the run; findings only warn, as both pools are the same origin.
_CANARYPROXY = """\
listen: 127.0.0.1:{port}
workers: 1
admin: {{listen: 127.0.0.1:{admin}, token_file: {work}/canaryproxy.token}}
state: {{path: {work}/canaryproxy.db}}
limits: {{requests_per_connection: 1000000000, idle_per_server: 128}}
pools:
  v1: {{servers: [http://127.0.0.1:{stable}]}}
  v2: {{servers: [http://127.0.0.1:{canary}]}}
routes:
  bench:
    stable: v1
    canary: v2
    affinity: {{cookie: uid}}
    rollout: {{auto_start: true, steps: [{{weight: {percent}%, hold: 1h}}, {{weight: 50%, hold: 1h}}]}}
    metrics: {{error_rate: {{on_breach: warn}}, latency_p95: {{on_breach: warn}}}}
"""


def _canaryproxy(work: Path, origin: Origin) -> Server:
    port, admin = free_ports(2)
    config = work / "canaryproxy.yaml"
    config.write_text(
        _CANARYPROXY.format(port=port, admin=admin, work=work, stable=origin.stable, canary=origin.canary, percent=CANARY_PERCENT)
    )
    version = _first_line(sys.executable, "-c", "import canaryproxy; print(canaryproxy.__version__)")
    return Server("canaryproxy", (sys.executable, "-m", "canaryproxy", "run", "--config", str(config)), port, version)


#: name -> how to set it up in a directory, for an origin; in the order of a round.
PEERS: dict[str, Callable[[Path, Origin], Server]] = {
    "canaryproxy": _canaryproxy,
    "nginx": _nginx,
    "haproxy": _haproxy,
    "aiohttp": _aiohttp,
}
