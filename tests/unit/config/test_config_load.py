# ruff: noqa: E501 - a message stands in one piece, as people would search for it
"""Files and flags to a configuration, or to every problem at once, in file order and in plain words."""

from pathlib import Path

import pytest

from canaryproxy.config.listening import AccessLog
from canaryproxy.config.load import from_flags, load, parse
from canaryproxy.config.quantities import Address, Server
from canaryproxy.config.schema import Config, Route
from canaryproxy.config.upstreams import UpstreamTls
from canaryproxy.errors import ConfigError

_GOOD = """\
pools:
  v1: {servers: [http://127.0.0.1:8001]}
  v2: {servers: [http://127.0.0.1:8002]}
routes:
  shop: {stable: v1, canary: v2}
"""


def complaints(text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f.yaml", environ)
    assert str(caught.value) == "\n".join(map(str, caught.value.problems))
    return [str(problem) for problem in caught.value.problems]


def test_the_least_file_has_all_defaults() -> None:
    config = parse(_GOOD, "f.yaml", {})
    assert config.listen == Address("0.0.0.0", 8080)
    assert config.pools["v2"].servers == (Server("127.0.0.1", 8002),)
    assert config.routes["shop"] == Route(stable="v1", canary="v2")


def test_text_becomes_what_the_field_wants() -> None:
    text = _GOOD + "workers: 3\nstrict_authority: yes\nlimits: {headers: ${N}, head: 10240}\nlisten: ${LISTEN:-:80}\ntimeouts:\n"
    config = parse(text.replace("${N}", '"${N}"'), "f.yaml", {"N": "50"})
    assert (config.workers, config.worker_count, config.strict_authority) == (3, 3, True)
    assert (config.limits.headers, config.limits.head, config.listen) == (50, 10_240, Address("0.0.0.0", 80))
    assert config.timeouts.connect == 3


def test_names_and_versions_may_look_like_numbers() -> None:
    text = (
        "pools: {1.10: {servers: [http://a], version: 1.10}, no: {servers: [http://b]}}\nroutes: {1: {stable: 1.10, canary: no}}"
    )
    config = parse(text, "f", {})
    assert config.pools["1.10"].version == "1.10"
    assert config.routes["1"].canary == "no"


_TEN = """\
listen: 0.0.0.0:8080
workers: 0
bogus: 1
admin: {listen: 127.0.0.1:8080}
timeouts:
  conect: 3s
  drain: 30
pools:
  v1: {servers: [ftp://127.0.0.1:8001]}
  v2: {servers: [http://127.0.0.1:8080]}
routes:
  shop:
    stable: v11
    canary: v2
    rollout:
      steps:
        - {weight: 1%, hold: 10s}
        - {weight: 50%, hold: 10m}
"""


def test_ten_problems_are_all_reported_in_file_order() -> None:
    assert complaints(_TEN) == [
        "f.yaml:2 workers: '0' is not a number of workers; write auto or 1 to 64",
        "f.yaml:3 bogus: unknown key; keys here: listen, tls, proxy_protocol, workers, admin, state, timeouts, limits, access_log, host_header, via, trusted_proxies, strict_authority, underscore_headers, request_trailers, upgrades, expose_request_id, pools, routes",
        "f.yaml:4 admin.listen: 127.0.0.1:8080 is taken by listen (0.0.0.0:8080); use another port",
        "f.yaml:6 timeouts.conect: unknown key; did you mean connect? keys here: request_head, keep_alive, request_body_idle, connect, response_head, response_body_idle, send_idle, upstream_idle, connection_age, drain, queue, total, tunnel_idle, tunnel_linger, tunnel_grace",
        "f.yaml:7 timeouts.drain: '30' has no unit; write 30s or 30m",
        "f.yaml:9 pools.v1.servers[0]: 'ftp://127.0.0.1:8001' has scheme 'ftp'; only http://, https:// and unix: upstreams are supported",
        "f.yaml:10 pools.v2.servers[0]: http://127.0.0.1:8080 is this proxy itself (listen: 0.0.0.0:8080); write the address of the application",
        "f.yaml:13 routes.shop.stable: no pool is named 'v11'; did you mean v1? pools: v1, v2",
        "f.yaml:17 routes.shop.rollout.steps[0].hold: 10s is too short to see harm before the next step: that is a sped-up blue-green, not a canary; hold for at least 1m, or set i_accept_the_risk: true",
        "f.yaml:18 routes.shop.rollout.steps[1].weight: from 1% to 50% is a jump of more than 10 times: that is a sped-up blue-green, not a canary; put a step between, or set i_accept_the_risk: true",
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("listen:", "listen: is empty; write a value (where users arrive; false: over TLS only) or remove the key"),
        ("listen: {a: 1}", "listen: is a section where one value is meant; write one value"),
        ("listen: [a]", "listen: is a list where one value is meant; write one value"),
        (
            "admin: 127.0.0.1:1",
            "admin: is '127.0.0.1:1' where keys are meant; keys here: listen, token_file, tokens, read, rate_limit",
        ),
        ("state: {path: ''}", "state.path: is empty; write a value or remove the key"),
        ("limits: {headers: 1}", "limits.headers: '1' is too small; write at least 10"),
        ("limits: {headers: 1001}", "limits.headers: '1001' is too large; write at most 1000"),
        ("limits: {headers: 10.5}", "limits.headers: '10.5' is not a whole number; write digits only"),
        ("limits: {head: 1GiB}", "limits.head: '1GiB' is too large; write at most 1MiB"),
        ("timeouts: {connect: 0s}", "timeouts.connect: '0s' is too small; write more than 0s"),
        ("strict_authority: maybe", "strict_authority: 'maybe' is neither true nor false; write true or false"),
        (
            "underscore_headers: dorp",
            "underscore_headers: 'dorp' is not known here; did you mean drop? write drop, reject or allow",
        ),
        ("trusted_proxies: 10.0.0.0/8", "trusted_proxies: is '10.0.0.0/8' where a list is meant; write [10.0.0.0/8]"),
        ("trusted_proxies: {a: 1}", "trusted_proxies: is a section where a list is meant; begin each item with -"),
        ("via: a b", "via: 'a b' is not a name that HTTP allows; use letters, digits and - _ ."),
        ("host_header: ${NOPE}", "host_header: the environment variable NOPE is not set; set it, or write ${NOPE:-default}"),
        ("listen: false", "listen: false leaves no address where users can arrive; write an address, or add tls"),
        (
            "tls: true",
            "tls: is 'true' where keys are meant; keys here: listen, certificate, key, sni, client_ca, client_auth, min_version, handshake_timeout",
        ),
        (
            "proxy_protocol: {from: []}",
            "proxy_protocol.from: is empty; write at least one: the networks of the load balancers that send it",
        ),
        (
            "proxy_protocol: {from: [a]}",
            "proxy_protocol.from[0]: 'a' is not a network; write for example 10.0.0.0/8 or 192.0.2.7",
        ),
        (
            "proxy_protocol: {timeout: 3s}",
            "proxy_protocol.from: is missing; add it: the networks of the load balancers that send it",
        ),
        (
            "proxy_protocol: {from: [10.0.0.0/8], tiemout: 3s}",
            "proxy_protocol.tiemout: unknown key; did you mean timeout? keys here: from, timeout",
        ),
        ("access_log: {format: jsno}", "access_log.format: 'jsno' is not known here; did you mean json? write json or combined"),
        ("access_log: maybe", "access_log: is 'maybe' where keys are meant; keys here: format, path"),
        ("upgrades: [websocket, H2C]", "upgrades[1]: 'H2C' would carry requests past the proxy; remove it"),
        ("upgrades: [a b]", "upgrades[0]: 'a b' is not the name of a protocol; write for example websocket"),
        ("limits: {memory: 512}", "limits.memory: 512 is less than a worker needs; write at least 128MiB, or 0 for no limit"),
        ("listen: :80\nlisten: :81", "listen: is written again in line 7; keep one of the two"),
    ],
)
def test_one_problem(line: str, message: str) -> None:
    assert complaints(_GOOD + line) == [f"f.yaml:6 {message}"]


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        ("servers: [{url: http://a, weight: 200}]", "servers[0]: '200' is not a weight; write 1 to 100"),
        ("servers: [{url: http://a, wieght: 2}]", "servers[0]: 'wieght' is no key of a server; keys here: url, weight"),
        ("servers: [[http://a]]", "servers[0]: is a list where one value is meant; write one value"),
        ("servers: [{url: '${NOPE}', weight: 2}]", "servers[0].url: the environment variable NOPE is not set; set it, or write ${NOPE:-default}"),
        ("balance: ewma", "balance: 'ewma' is not known here; write least_request or round_robin"),
        ("send_proxy: v3", "send_proxy: 'v3' is not known here; write v1 or v2"),
        ("max_connections: 0", "max_connections: '0' is too small; write at least 1"),
        ("retries: {budget: 20}", "retries.budget: '20' has no unit; write 20%"),
        ("resolve: 10ms", "resolve: '10ms' is too small; write at least 1s"),
        ("tls: {server_name: 'a b'}", "tls.server_name: 'a b' is not the name of a host; write for example app.internal"),
        ("tls: {server_name: 'app:8443'}", "tls.server_name: 'app:8443' is not the name of a host; write for example app.internal"),
        ("health: {}", "health.path: is missing; add it: asked for with GET"),
        ("health: {path: healthz}", "health.path: 'healthz' is not a path; write for example /healthz"),
        ("health: {path: \"/a\\r\\nX: y\"}", "health.path: '/a\\r\\nX: y' is not a path; write for example /healthz"),
        ("health: {path: /, status: [20]}", "health.status[0]: '20' is not a range of status codes; write for example 200-399 or 204"),
        ("health: {path: /, status: 204}", "health.status: is '204' where a list is meant; write [204]"),
        ("health: {path: /, host: a/b}", "health.host: 'a/b' is not a host; write for example app.internal or app.internal:8000"),
    ],
)  # fmt: skip
def test_one_problem_of_a_pool(pool: str, message: str) -> None:
    servers = "" if "servers" in pool else "servers: [http://a], "
    assert complaints(f"pools:\n  v1: {{{servers}{pool}}}\nroutes: {{r: {{stable: v1}}}}\n") == [f"f.yaml:2 pools.v1.{message}"]


def test_what_is_off_is_none() -> None:
    off = _GOOD + "listen: no\ntls: {certificate: '${A}', key: b}\naccess_log: False\nproxy_protocol: off\n"
    with pytest.raises(ConfigError) as caught:
        parse(off, "f.yaml", {})  # it is right but for the certificate
    assert {problem.where for problem in caught.value.problems} == {"f.yaml:7 tls.certificate", "f.yaml:7 tls.key"}
    config = parse(_GOOD + "tls:\naccess_log:\nproxy_protocol: false\n", "f.yaml", {})
    assert (config.tls, config.access_log, config.proxy_protocol) == (None, None, None)
    pool = parse(_GOOD.replace("8001]", "8001], health: , send_proxy: No, tls: "), "f.yaml", {}).pools["v1"]
    assert (pool.health, pool.send_proxy, pool.tls) == (None, None, UpstreamTls())


def test_what_is_on() -> None:
    text = "proxy_protocol: {from: [10.0.0.0/8]}\naccess_log: yes\nupgrades: [WebSocket, acme/2]\nlimits: {memory: 1GiB}\n"
    config = parse(_GOOD + text, "f.yaml", {})
    assert config.proxy_protocol is not None
    assert (config.proxy_protocol.from_, config.access_log) == (("10.0.0.0/8",), AccessLog(format="json", path="-"))
    assert (config.upgrades, config.limits.memory) == (("websocket", "acme/2"), 1 << 30)
    pool = parse(_GOOD.replace("8001]", "8001], health: {path: /}, send_proxy: v2"), "f.yaml", {}).pools["v1"]
    assert pool.health is not None
    assert (pool.health.status, pool.send_proxy) == (((200, 399),), "v2")


@pytest.mark.parametrize(
    ("route", "message"),
    [
        ("{canary: v2}", "stable: is missing; add it: the pool of the current version"),
        ("{stable: v1, canary: a/b}", "canary: 'a/b' is not a usable name; use up to 63 letters, digits and . _ -"),
        ("{stable: v1, rollout: {steps: []}}", "rollout.steps: is empty; write at least one: rising weights"),
        (
            "{stable: v1, rollout: {steps: [{hold: 5m}]}}",
            "rollout.steps[0].weight: is missing; add it: the canary's share of the users",
        ),
        ("{stable: v1, rollout: {steps: [5%]}}", "rollout.steps[0]: is '5%' where keys are meant; keys here: weight, hold"),
        ("{stable: v1, rollout: {steps: [{weight: 0%}]}}", "rollout.steps[0].weight: '0%' is too small; write at least 0.01%"),
        (
            "{stable: v1, rollout: {steps: [{weight: 5%, pause: {}}]}}",
            "rollout.steps[0].pause: a step has a weight or is a pause, not both; write - pause: {} below it, as an item of its own",
        ),
        (
            "{stable: v1, rollout: {steps: [{weight: 5%}, {pause: 1h}]}}",
            "rollout.steps[1].pause: is '1h' where keys are meant; keys here: duration",
        ),
        (
            "{stable: v1, rollout: {steps: [{weight: 5%}, {pause: {for: 1h}}]}}",
            "rollout.steps[1].pause.for: unknown key; keys here: duration",
        ),
        (
            "{stable: v1, rollout: {steps: [{weight: 5%}, {pause: {}, hold: 1h}]}}",
            "rollout.steps[1].hold: unknown key; keys here: pause",
        ),
        (
            "{stable: v1, rollout: {steps: [{weight: 5%}, {pause: {duration: 5%}}]}}",
            "rollout.steps[1].pause.duration: '5%' is not a duration; write for example 30s, 5m or 1h30m",
        ),
        ("{stable: v1, rollout: {hold_back: 6%}}", "rollout.hold_back: '6%' is too large; write at most 5%"),
        ("{stable: v1, rollout: {confidence: 100%}}", "rollout.confidence: '100%' is too large; write at most 99.99%"),
        (
            "{stable: v1, rollout: {on_inconclusive: stop}}",
            "rollout.on_inconclusive: 'stop' is not known here; write pause, extend or rollback",
        ),
        ("{stable: v1, affinity: {max_age: 1s}}", "affinity.max_age: '1s' is too small; write at least 1m"),
        (
            "{stable: v1, metrics: {error_rate: {max_increase: 0pp}}}",
            "metrics.error_rate.max_increase: '0pp' is too small; write more than 0pp",
        ),
        (
            "{stable: v1, metrics: {latency_p95: {max_increase: 5%}}}",
            "metrics.latency_p95.max_increase: '5%' is not a duration; write for example 30s, 5m or 1h30m",
        ),
        ("{stable: v1, match: {hosts: ['*']}}", "match.hosts[0]: '*' is not a host; leave hosts out to take every host"),
    ],
)
def test_one_problem_of_a_route(route: str, message: str) -> None:
    text = f"pools: {{v1: {{servers: [http://a]}}, v2: {{servers: [http://b]}}}}\nroutes:\n  shop: {route}\n"
    assert complaints(text) == [f"f.yaml:3 routes.shop.{message}"]


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("", ["f.yaml: the file is empty; canaryproxy init writes an example"]),
        ("a: b: c", ["f.yaml:1:5: not valid YAML: a second ': ' on this line, or wrong indentation; put text that has ': ' in quotes"]),
        ("listen: :80\npools: {}", ["f.yaml:1 routes: is missing; add it: name: {stable: pool, canary: pool}", "f.yaml:2 pools: is empty; write at least one: name: {servers: [http://host:port]}"]),
        ("pools: {v1: }\nroutes: {a: {stable: v1}}", ["f.yaml:1 pools.v1.servers: is missing; add it: the addresses that run this version"]),
        ("pools: {a/b: {servers: [x]}}\nroutes: {a: {stable: a/b}}", ["f.yaml:1 pools.a/b: 'a/b' is not a usable name; use up to 63 letters, digits and . _ -"]),
    ],
)  # fmt: skip
def test_whole_files(text: str, messages: list[str]) -> None:
    found = complaints(text)
    assert found[: len(messages)] == messages


def test_a_file_that_is_no_section() -> None:
    (message,) = complaints("just text")
    assert message.startswith("f.yaml:1: is 'just text' where keys are meant; keys here: listen, tls, ")


@pytest.mark.parametrize(
    "broken",
    [
        "pools: {v1: {servers: [ftp://a]}, v2: {servers: [http://b]}}\nroutes: {a: {stable: v1, canary: v2}}",
        "pools: {v1: {servers: []}}\nroutes: {a: {stable: v1}}",
        "pools: {v1: ${NOPE}}\nroutes: {a: {stable: v1}}".replace("${NOPE}", "'${NOPE}'"),
        "pools: {v1: {servers: [http://a]}}\nroutes: {a: {stable: v1, match: {hosts: [a b]}}, b: {stable: v1}}",
        "pools: {v1: {servers: [http://a]}}\nroutes: {a: {stable: v1, rollout: {i_accept_the_risk: si, steps: [{weight: 50%, hold: 1s}]}}}",
        "pools: {v1: {servers: [http://127.0.0.1:8080]}}\nroutes: {a: {stable: v1}}\nlisten: 8080",
        "pools: {v1: {servers: [http://a], health: {path: x, timeout: 2s}}}\nroutes: {a: {stable: v1}}",
        "pools: {v1: {servers: [ftp://a], tls: {server_name: b}}}\nroutes: {a: {stable: v1}}",
        "pools: {v1: {servers: [http://a]}}\nroutes: {a: {stable: v1}}\nproxy_protocol: {}",
        "pools: {v1: {servers: [http://a]}}\nroutes: {a: {stable: v1}}\nlisten: false\ntls: 8443",
    ],
)
def test_what_follows_from_a_problem_is_not_another(broken: str) -> None:
    assert len(complaints(broken)) == 1


@pytest.mark.parametrize(
    "section",
    ["proxy_protocol: {}", "tls: {}", "pools: {v1: {servers: [http://a], health: {}}}", "pools: {v1: {}}", "listen: {}"],
)
def test_what_is_missing_does_not_hide_what_is_wrong_elsewhere(section: str) -> None:
    text = "routes: {shop: {stable: v1}}\nlimits: {memory: 1MiB}\n" + section
    found = complaints(text if "pools" in section else text + "\npools: {v1: {servers: [http://a]}}")
    assert found[0] == "f.yaml:2 limits.memory: 1MiB is less than a worker needs; write at least 128MiB, or 0 for no limit"
    assert all(problem.startswith("f.yaml:3 ") for problem in found[1:])
    assert len(found) > 1


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"version: caf\xe9")
    for name, message in (
        ("none.yaml", "no such file; canaryproxy init writes an example"),
        ("latin.yaml", "byte 12 is not UTF-8; save the file as UTF-8"),
        ("", "cannot be read (Is a directory); check the path and its permissions"),
    ):
        with pytest.raises(ConfigError) as caught:
            load(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}: {message}"


def test_a_file_is_named_in_its_problems(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("\ufeff" + _GOOD + "workers: many\n")
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert [problem.where for problem in caught.value.problems] == [f"{path}:6 workers"]
    path.write_text(_GOOD + "workers: ${N}\n")
    assert load(path, {"N": "2"}).workers == 2


# --- flags ---


def refused(**flags: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        from_flags(**flags)  # type: ignore[arg-type]
    return [str(problem) for problem in caught.value.problems]


def test_flags() -> None:
    config = from_flags(
        "http://a:1, http://b:2", ["http://c", "http://d"], listen=":80", workers="2", admin="[::1]:1", state="x.db"
    )
    assert config == Config.model_validate(
        {
            "listen": "0.0.0.0:80",
            "workers": 2,
            "admin": {"listen": "[::1]:1"},
            "state": {"path": "x.db"},
            "pools": {
                "a-1-d8766531": {"servers": ["http://a:1", "http://b:2"]},
                "c-80-80e39ddd": {"servers": ["http://c", "http://d"]},
            },
            "routes": {"default": {"stable": "a-1-d8766531", "canary": "c-80-80e39ddd", "rollout": {"auto_start": True}}},
        }
    )
    assert from_flags("http://a", "http://b").state.path == "./canaryproxy.db"


@pytest.mark.parametrize(
    ("urls", "name"),
    [
        ("http://127.0.0.1:8001", "127.0.0.1-8001"),
        ("HTTP://Shop.internal/", "shop.internal-80"),
        ("http://b:2,http://a:1", "a-1-d8766531"),
        ("http://[::1]:8001", "1-8001-63607aee"),
        ("http://_x_:1", "x-1-09a1d253"),
        ("https://app.internal", "app.internal-443"),
        ("unix:/run/app.sock", "run-app.sock-1a5f35e6"),
        (f"http://{'long.' * 12}example:1", "long.long.long.long.long.long.long.long.long.long.long-9239e5c8"),
    ],
)
def test_pools_of_flags_are_named_after_their_servers(urls: str, name: str) -> None:
    route = from_flags("http://other:1", urls).routes["default"]
    assert (route.stable, route.canary) == ("other-1", name)


def test_the_same_servers_twice_are_refused() -> None:
    assert refused(stable="http://a:80", canary="http://a/") == [
        "--canary: is the same pool as stable ('a-80'); name the pool of the new version, or leave canary out while there is none"
    ]


def test_problems_of_flags_name_the_flag() -> None:
    assert refused(stable="127.0.0.1:1", canary=[], listen="80", workers="x", admin="here", state="") == [
        "--stable: '127.0.0.1:1' has no scheme; write http://127.0.0.1:1",
        "--canary: is empty; write at least one: the addresses that run this version",
        "--listen: '80' is only a port; write 0.0.0.0:80 or 127.0.0.1:80",
        "--workers: 'x' is not a number of workers; write auto or 1 to 64",
        "--admin: 'here' is not an address; write for example 0.0.0.0:8080",
        "--state: is empty; write a value or remove the key",
    ]
    assert refused(stable="http://a", canary="http://localhost:8080", admin="127.0.0.1:8080") == [
        "--canary: http://localhost:8080 is this proxy itself (listen: 0.0.0.0:8080); write the address of the application",
        "--admin: 127.0.0.1:8080 is taken by listen (0.0.0.0:8080); use another port",
    ]
