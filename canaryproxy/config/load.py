"""A file, or the flags of `canaryproxy run`, to a checked `Config`; or every problem at once.

Called by the CLI and, at reload, by the supervisor. Text to data is `config.source`; data to models, and what is wrong with it,
`config.examine`. Only this module reads files and the environment.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from canaryproxy.config.examine import examine
from canaryproxy.config.quantities import Address, parse_server
from canaryproxy.config.schema import Config
from canaryproxy.config.source import read
from canaryproxy.errors import ConfigError, Problem


def load(path: str | os.PathLike[str], environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration in the file at `path`; raises ConfigError with every problem, in file order."""
    where = os.fspath(path)
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError([Problem(where, "no such file", "canaryproxy init writes an example")]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(where, f"byte {error.start} is not UTF-8", "save the file as UTF-8")]) from None
    except OSError as error:
        raise ConfigError([Problem(where, f"cannot be read ({error.strerror})", "check the path and its permissions")]) from None
    return parse(text, where, environ)


def parse(text: str, where: str, environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration in a YAML text; `where` names it in problems (`where:line path: what is wrong; what to do`)."""
    source = read(text, where, environ)
    if source.data is None:
        raise ConfigError([Problem(where, "the file is empty", "canaryproxy init writes an example")])

    def put(problem: Problem) -> tuple[tuple[int, int], Problem]:
        mark = source.mark(problem.where)
        return mark, Problem(f"{where}:{mark.line} {problem.where}".rstrip(), problem.what, problem.hint)

    return _checked(source.data, source.problems, put)


_FLAGS = {
    "--stable": ("pools.{stable}.servers",),
    "--canary": ("pools.{canary}.servers", "routes.default.canary"),
    "--listen": ("listen",),
    "--workers": ("workers",),
    "--admin": ("admin.listen",),
    "--state": ("state.path",),
}


def from_flags(
    stable: str | Sequence[str],
    canary: str | Sequence[str],
    *,
    listen: str | None = None,
    workers: int | str | None = None,
    admin: str | None = None,
    state: str | None = None,
) -> Config:
    """The configuration of `canaryproxy run --stable URL --canary URL`: route `default`, which starts by itself.

    Several servers of a pool: comma-separated or a sequence. A pool is named after its servers: what is recorded is about a
    name, and other servers are another version (`rollout.roles`). Raises ConfigError; `where` is the flag.
    """
    servers = {"stable": _urls(stable), "canary": _urls(canary)}
    names = {role: _pool_name(urls) if urls else role for role, urls in servers.items()}
    data: dict[str, Any] = {
        "pools": {names[role]: {"servers": urls} for role, urls in servers.items()},
        "routes": {"default": names | {"rollout": {"auto_start": True}}},
        "admin": {} if admin is None else {"listen": admin},
        "state": {} if state is None else {"path": state},
    }
    data |= {key: value for key, value in (("listen", listen), ("workers", workers)) if value is not None}

    def put(problem: Problem) -> tuple[tuple[int, int], Problem]:
        for order, (flag, places) in enumerate(_FLAGS.items()):
            if problem.where.startswith(tuple(place.format(**names) for place in places)):
                return (order, 0), Problem(flag, problem.what, problem.hint)
        return (len(_FLAGS), 0), problem

    return _checked(data, [], put)


def _urls(given: str | Sequence[str]) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    return [url.strip() for text in texts for url in text.split(",") if url.strip()]


def _pool_name(urls: Sequence[str]) -> str:
    """`127.0.0.1-8001` for one server; the first and a hash of all for several, or where a name cannot be spelled so."""
    places = sorted(map(_place, urls))
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", places[0]).strip("-.")
    if len(places) == 1 and plain == places[0].replace(":", "-") and len(plain) <= 63:
        return plain
    return f"{plain[:54]}-{hashlib.sha256(' '.join(places).encode()).hexdigest()[:8]}".lstrip("-")


def _place(url: str) -> str:
    try:
        server = parse_server(url)
    except ValueError:
        return url  # reported where the servers are read
    return server.path or str(Address(server.host, server.port))


def json_schema() -> dict[str, Any]:
    """The file's JSON Schema (2020-12), for editors; quantities and their defaults are text, as people write them."""
    # "serialization" only because that is the mode in which defaults are written with their units
    schema = Config.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "canaryproxy configuration"}


def example_text() -> str:
    """The commented example that `canaryproxy init` writes."""
    return resources.files("canaryproxy.config").joinpath("example.yaml").read_text(encoding="utf-8")


# --- data to Config ---

_Put = Callable[[Problem], tuple[tuple[int, int], Problem]]


def _checked(data: Any, found: list[Problem], put: _Put) -> Config:
    """The configuration in `data`; raises ConfigError with `found` and all further problems, ordered and placed by `put`."""
    config, problems = examine(data)
    if found or problems or config is None:
        placed = sorted((put(problem) for problem in [*found, *problems]), key=lambda item: item[0])
        raise ConfigError([problem for _, problem in placed])
    return config
