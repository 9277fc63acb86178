# ruff: noqa: E501 - a message stands in one piece, as people would search for it
"""What is wrong with the files that a configuration names: found before anything starts or changes."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority

from canaryproxy.config import files
from canaryproxy.config.examine import examine
from canaryproxy.config.load import parse
from canaryproxy.config.overlay import with_pools
from canaryproxy.config.schema import Config
from canaryproxy.errors import ConfigError

_POOLS: dict[str, Any] = {"v1": {"servers": ["https://127.0.0.1:8001"]}}
_ROUTES = {"shop": {"stable": "v1"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates a and b with their keys, their authority ca.pem, and files that are of no use."""
    folder = tmp_path_factory.mktemp("files")
    authority = Authority(folder)
    for name in ("a", "b"):
        authority.issue(f"{name}.example.com", file=name)
    locked = ["openssl", "genpkey", "-algorithm", "RSA", "-aes256", "-pass", "pass:x", "-out", str(folder / "locked.key")]
    subprocess.run(locked, check=True, capture_output=True)
    (folder / "text").write_text("hello")
    damaged = Path(authority.ca).read_text().splitlines()
    (folder / "damaged.pem").write_text("\n".join([damaged[0], "AAAA", *damaged[2:]]))
    (folder / "sub").mkdir()
    return folder


@pytest.fixture(autouse=True)
def _in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def said(**top: Any) -> list[str]:
    data = {"pools": _POOLS, "routes": _ROUTES, **top}
    assert Config.model_validate(data)
    return [str(problem) for problem in examine(data)[1]]


def said_of_pool(**tls: Any) -> list[str]:
    return said(pools={"v1": {**_POOLS["v1"], "tls": tls}})


def test_files_that_are_right() -> None:
    sni = [{"hosts": ["b.example.com"], "certificate": "b.pem", "key": "b.key"}]
    tls = {"certificate": "a.pem", "key": "a.key", "client_ca": "ca.pem", "sni": sni}
    assert said(tls=tls, access_log={"path": "sub/access.log"}) == []
    assert said(access_log={"path": "-"}) == []
    assert said_of_pool(ca="ca.pem", certificate="a.pem", key="a.key") == []


_UNREADABLE = "cannot be read (No such file or directory); check the path and its permissions"


@pytest.mark.parametrize(
    ("certificate", "key", "messages"),
    [
        ("none.pem", "none.key", [f"certificate: 'none.pem' {_UNREADABLE}", f"key: 'none.key' {_UNREADABLE}"]),
        ("a.pem", "b.key", ["key: 'b.key' is not the key of the certificate in 'a.pem'; name the two files that belong together"]),
        ("a.pem", "locked.key", ["key: 'locked.key' has a passphrase, and nobody is there to enter it; write the key without one"]),
        ("a.key", "a.pem", ["certificate: 'a.key' has no certificate in it; write a PEM file", "key: 'a.pem' has no private key in it; write a PEM file"]),
        ("text", "a.key", ["certificate: 'text' has no certificate in it; write a PEM file"]),
        ("sub", "/dev/zero", ["certificate: 'sub' is not a file; write the path of a PEM file", "key: '/dev/zero' is not a file; write the path of a PEM file"]),
        ("a\0.pem", "a.key", ["certificate: 'a\\x00.pem' cannot be read (embedded null byte); check the path and its permissions"]),
    ],
)  # fmt: skip
def test_a_certificate_and_its_key(certificate: str, key: str, messages: list[str]) -> None:
    pair = {"certificate": certificate, "key": key}
    assert said(tls=pair) == [f"tls.{message}" for message in messages]
    sni = [{"hosts": ["b.example.com"], **pair}]
    assert said(tls={"certificate": "a.pem", "key": "a.key", "sni": sni}) == [f"tls.sni[0].{message}" for message in messages]
    assert said_of_pool(**pair) == [f"pools.v1.tls.{message}" for message in messages]


def test_a_damaged_certificate() -> None:
    [message] = said(tls={"certificate": "damaged.pem", "key": "a.key"})
    assert message.startswith("tls.certificate: 'damaged.pem' cannot be used with the key 'a.key' (")
    [message] = said_of_pool(ca="damaged.pem")
    assert message.startswith("pools.v1.tls.ca: 'damaged.pem' cannot be used (")


def test_authorities() -> None:
    tls = {"certificate": "a.pem", "key": "a.key"}
    assert said(tls={**tls, "client_ca": "none.pem"}) == [f"tls.client_ca: 'none.pem' {_UNREADABLE}"]
    assert said_of_pool(ca="a.key") == ["pools.v1.tls.ca: 'a.key' has no certificate in it; write a PEM file"]


def test_the_access_log() -> None:
    assert said(access_log={"path": "no/access.log"}) == [
        "access_log.path: there is no directory 'no'; make it, or write another path"
    ]
    assert said(access_log={"path": "sub"}) == ["access_log.path: 'sub' is a directory; write the path of a file"]


def test_what_could_not_be_read_in_the_configuration_is_not_looked_at() -> None:
    config = Config.model_validate({"pools": _POOLS, "routes": _ROUTES, "tls": {"certificate": "x", "key": "y"}})
    assert len(files.problems(config)) == 2
    assert [problem.where for problem in files.problems(config, {"tls.certificate"})] == ["tls.key"]
    assert files.problems(config, {"tls"}) == []


def test_they_are_found_in_a_file_at_its_line_and_when_a_pool_is_registered() -> None:
    good = "pools: {v1: {servers: [https://a]}}\nroutes: {shop: {stable: v1}}\n"
    with pytest.raises(ConfigError) as caught:
        parse(good + "tls:\n  certificate: a.pem\n  key: b.key\n", "f.yaml", {})
    assert [problem.where for problem in caught.value.problems] == ["f.yaml:5 tls.key"]
    with pytest.raises(ConfigError) as caught:
        with_pools(parse(good, "f.yaml", {}), {"v2": {"servers": ["https://b"], "tls": {"ca": "none.pem"}}})
    assert str(caught.value) == f"pools.v2.tls.ca: 'none.pem' {_UNREADABLE}"
