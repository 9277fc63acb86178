"""`request_trailers`: what the data plane would throw away anyway is refused when the file is checked."""

from __future__ import annotations

import pytest

from canaryproxy.config import check
from canaryproxy.config.check_network import may_be_trailer
from canaryproxy.config.schema import Config
from canaryproxy.http1.chunked import _NOT_IN_TRAILERS, _may_be_trailer

_SOME = (
    *(
        "Content-Length",
        "content-type",
        "If-Match",
        "X-Forwarded-For",
        "X-Forwarded-Any",
        "Forwarded",
        "X-Real-IP",
        "X-Request-ID",
    ),
    *("X_Sum", "Authorization", "Cookie", "Set-Cookie", "Host", "TE", "X-Canary-Variant"),
)


@pytest.mark.parametrize("name", [*_SOME, *sorted(name.decode() for name in _NOT_IN_TRAILERS), "X-Sum", "Digest", "grpc-status"])
def test_file_and_data_plane_agree(name: str) -> None:
    assert may_be_trailer(name) is _may_be_trailer(name.lower().encode())


@pytest.mark.parametrize("name", _SOME)
def test_forbidden_names_are_refused(name: str) -> None:
    config = Config.model_validate(
        {
            "pools": {"v1": {"servers": ["http://a"]}},
            "routes": {"shop": {"stable": "v1"}},
            "request_trailers": ["X-Sum", name],
        }
    )
    what = f"{name!r} says how a message is read, routed or whose it is: it counts in a head only"
    assert [str(problem) for problem in check.problems(config)] == [f"request_trailers[1]: {what}; remove it"]
