"""What is wrong with the files that a configuration names: certificates, keys, authorities, lists of users, the access
log's directory.

Called by `config.examine`, so that `canaryproxy check`, a start, SIGHUP and a registered pool all find it out before anything
has changed. Reads files, keeps nothing: a worker reads them again.
"""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from canaryproxy.config.check_network import Finding, found, reported
from canaryproxy.config.outside import Datadog
from canaryproxy.config.schema import Config
from canaryproxy.config.users import read_users
from canaryproxy.errors import Problem

#: The first line of a PEM file of that kind (RFC 7468); keys have the name of their algorithm in it.
_CERTIFICATE, _KEY = "-----BEGIN CERTIFICATE-----", " PRIVATE KEY-----"


class _PassphraseError(Exception):
    """OpenSSL asked for one."""


def problems(config: Config, unread: Collection[str] = ()) -> list[Problem]:
    """Everything that is wrong with the files; `unread` as in `config.check`."""
    return reported(_findings(config), unread)


def _findings(config: Config) -> Iterator[Finding]:
    if config.tls is not None:
        yield from _pair("tls", config.tls.certificate, config.tls.key)
        yield from _authorities("tls.client_ca", config.tls.client_ca)
        for index, entry in enumerate(config.tls.sni):
            yield from _pair(f"tls.sni[{index}]", entry.certificate, entry.key)
    for name, pool in config.pools.items():
        place = f"pools.{name}.tls"
        yield from _authorities(f"{place}.ca", pool.tls.ca)
        if pool.tls.certificate is not None and pool.tls.key is not None:
            yield from _pair(place, pool.tls.certificate, pool.tls.key)
    for name, route in config.routes.items():
        yield from _users(f"routes.{name}.overrides.users_file", route.overrides.users_file)
        for metric, outside in route.metrics.outside.items():
            if not isinstance(outside.asked, Datadog):
                yield from _authorities(f"routes.{name}.metrics.{metric}.{outside.provider}.ca", outside.asked.ca)
    if config.access_log is not None and config.access_log.path != "-":
        yield from _log_file("access_log.path", config.access_log.path)


def _pair(place: str, certificate: str, key: str) -> Iterator[Finding]:
    """What is wrong with a certificate and its key."""
    kinds = {"certificate": (certificate, _CERTIFICATE), "key": (key, _KEY)}
    wrong = [finding for name, (file, mark) in kinds.items() for finding in _pem(f"{place}.{name}", file, mark)]
    yield from wrong
    if wrong:
        return
    where, other = f"{place}.key", f"{place}.certificate"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, _refuse_passphrase)
    except _PassphraseError:
        yield found(where, f"{key!r} has a passphrase, and nobody is there to enter it", "write the key without one")
    except OSError as error:
        if isinstance(error, ssl.SSLError) and error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
            what = f"{key!r} is not the key of the certificate in {certificate!r}"
            yield found(where, what, "name the two files that belong together", other)
        else:
            what = f"{certificate!r} cannot be used with the key {key!r} ({_reason(error)})"
            yield found(other, what, "write the PEM files of a certificate with its chain, and of its key", where)


def _authorities(place: str, file: str | None) -> Iterator[Finding]:
    """What is wrong with a file of certificates to trust."""
    if file is None:
        return
    wrong = list(_pem(place, file, _CERTIFICATE))
    yield from wrong
    if not wrong:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
        except OSError as error:
            yield found(place, f"{file!r} cannot be used ({_reason(error)})", "write a PEM file of certificates to trust")


def _pem(place: str, file: str, mark: str) -> Iterator[Finding]:
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):  # a pipe or a device may never end
            yield found(place, f"{file!r} is not a file", "write the path of a PEM file")
            return
        content = Path(file).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        yield found(place, f"{file!r} cannot be read ({reason})", "check the path and its permissions")
    else:
        if mark.encode() not in content:
            kind = mark.strip("- ").removeprefix("BEGIN ").lower()
            yield found(place, f"{file!r} has no {kind} in it", "write a PEM file")


def _users(place: str, file: str | None) -> Iterator[Finding]:
    """What is wrong with a list of beta users."""
    if file is None:
        return
    try:
        for _ in read_users(file):
            pass
    except OSError as error:
        yield found(place, f"{file!r} cannot be read ({error.strerror})", "check the path and its permissions")
    except ValueError as error:  # also a path that cannot be one
        what, _, hint = str(error).partition("; ")
        yield found(place, f"{file!r}: {what}", hint)


def _log_file(place: str, file: str) -> Iterator[Finding]:
    directory = Path(file).parent
    if not directory.is_dir():
        yield found(place, f"there is no directory {str(directory)!r}", "make it, or write another path")
    elif os.path.isdir(file):
        yield found(place, f"{file!r} is a directory", "write the path of a file")


def _refuse_passphrase() -> str:
    raise _PassphraseError


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not in PEM form").lower().replace("_", " ")
    return (error.strerror or str(error)).lower()
