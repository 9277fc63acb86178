"""Who is asked for a metric, and every way in which a server can fail to say a number: each is a sentence, none is a number."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from certificates import Authority

from canaryproxy.config.metrics import OutsideMetric
from canaryproxy.control.providers import NoAnswerError, Question, Sample, provider_of
from canaryproxy.control.providers.datadog import as_tag
from canaryproxy.control.providers.prometheus import escaped

NOW = 1_700_000_000.0
VALUES = {"variant": "canary", "pool": "v2", "version": '2"}', "route": "shop", "interval": "30s", "window": "1m"}
QUESTION = Question(VALUES, NOW, 30.0, 60.0, 120.0)
SECRETS = {"bearer": "tokentoken", "headers": {"X-Key": "keykeykey"}}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """A real server that answers as it is told, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[web.Request] = []
        self.answer: Handler = self.says({})
        self.url = ""

    def says(self, document: Any, status: int = 200) -> Handler:
        async def answer(_: web.Request) -> web.Response:
            text = document if isinstance(document, str) else json.dumps(document)
            return web.Response(text=text, status=status, content_type="application/json")

        return answer

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        return await self.answer(request)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    served = web.Application()
    served.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(served, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


async def ask(settings: dict[str, Any], **limits: Any) -> Sample:
    metric = OutsideMetric.model_validate({**settings, "max": 1, "timeout": "300ms", **limits})
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        return await provider_of(metric, session).ask(QUESTION)


async def refused(settings: dict[str, Any]) -> str:
    """Why there is no number."""
    with pytest.raises(NoAnswerError) as caught:
        await ask(settings)
    return str(caught.value)


def prometheus(server: Server, **more: Any) -> dict[str, Any]:
    return {"prometheus": {"url": server.url, "query": 'cpu{version="{{ version }}"}[{{ window }}]', **more}}


def datadog(server: Server) -> dict[str, Any]:
    query = "avg:cpu{version:{{ version }}}.rollup(avg, {{ window }})"
    return {"datadog": {"url": server.url, "query": query, "api_key": "apiapiapi", "app_key": "appappapp"}}


def http(server: Server, **more: Any) -> dict[str, Any]:
    return {"http": {"url": f"{server.url}/stats/{{{{ version }}}}?of={{{{ pool }}}}", "value": "/data/apdex", **more}}


def vector(*values: Any) -> dict[str, Any]:
    result = [{"metric": {"pod": f"p{n}"}, "value": [NOW, value]} for n, value in enumerate(values)]
    return {"status": "success", "data": {"resultType": "vector", "result": result}}


async def test_prometheus_is_asked_as_its_api_says(server: Server) -> None:
    server.answer = server.says(vector("0.25") | {"warnings": ["one\nstore is slow"], "infos": ["x"]})
    found = await ask(prometheus(server, **SECRETS))
    assert found == Sample(0.25, NOW, ("one store is slow",))
    (request,) = server.asked
    assert (request.method, request.path) == ("GET", "/api/v1/query")
    assert dict(request.query) == {"query": 'cpu{version="2\\x22}"}[1m]', "lookback_delta": "120"}
    assert request.headers["Authorization"] == "Bearer tokentoken"
    assert (request.headers["X-Key"], request.headers["Accept-Encoding"]) == ("keykeykey", "identity")
    server.answer = server.says({"status": "success", "data": {"resultType": "scalar", "result": [NOW, "-1e3"]}})
    assert (await ask(prometheus(server, username="me", password="pässword"))).value == -1000
    assert server.asked[1].headers["Authorization"] == "Basic bWU6cMOkc3N3b3Jk"


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        (vector(), "no data: the query finds nothing"),
        (vector("NaN"), "no data: its value is NaN"),
        (vector("+Inf"), "no data: its value is +Inf"),
        (vector("1e999"), "no data: its value is inf"),
        (vector(1), "its value is 1, which is no number in quotes"),
        (vector("1_0"), "its value is '1_0', which is no number"),
        (vector("1", "2", "3"), "the query gives 3 series ({pod=p0}, {pod=p1}, ...) and not one; put sum() or max() around it"),
        (
            {"status": "success", "data": {"resultType": "matrix", "result": []}},
            "the query gives a matrix and not one number; a range needs a function around it, as rate()",
        ),
        (
            {"status": "success", "data": {"resultType": "string", "result": [1, "x"]}},
            "the query gives a string and not one number",
        ),
        ({"status": "success", "data": []}, "the query gives a thing and not one number"),
        ({"status": "success"}, "the query gives a thing and not one number"),
        (
            {"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "histogram": [1, {}]}]}},
            "the query gives a histogram and not one number",
        ),
        (
            {"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": [1]}]}},
            "a sample is a list of 1, which is no answer of Prometheus",
        ),
        (
            {"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": [None, "1"]}]}},
            "its time is null, which is no number",
        ),
        (
            {"status": "success", "data": {"resultType": "vector", "result": [7]}},
            "the query gives a histogram and not one number",
        ),
        ([], "URL answers 200: a list of 0, which is no answer of Prometheus"),
    ],
)
async def test_what_is_not_one_number_of_prometheus(server: Server, document: Any, sentence: str) -> None:
    server.answer = server.says(document)
    assert await refused(prometheus(server)) == sentence.replace("URL", f"{server.url}/api/v1/query")


async def test_an_error_of_prometheus_is_shown_and_its_body_is_bounded(server: Server) -> None:
    error = {"status": "error", "errorType": "bad_data", "error": "1:4: parse error\n" + "x" * 1000}
    server.answer = server.says(error, 400)
    said = await refused(prometheus(server))
    assert said.startswith(f"{server.url}/api/v1/query answers 400: bad_data: 1:4: parse error xxx")
    assert len(said) < 300


@pytest.mark.parametrize(
    ("version", "inside"),
    [
        ('2"} or vector(1) or x{y="', "2\\x22} or vector(1) or x{y=\\x22"),
        ("it's", "it\\x27s"),
        ("a\\", "a\\x5c"),
        ("a`b\nc\x7f", "a\\x60b\\x0ac\\x7f"),
        ("größe 1.2", "größe 1.2"),
    ],
)
def test_no_value_leaves_its_string(version: str, inside: str) -> None:
    assert escaped(version) == inside


def test_no_value_leaves_its_tag() -> None:
    assert as_tag('V2.0-rc/1} by {host},a:"*') == "v2.0-rc/1__by__host__a:__"


async def test_datadog_is_asked_for_the_last_whole_point(server: Server) -> None:
    points = [[(NOW - 90) * 1000, 7.0], [(NOW - 60) * 1000, 5.5], [(NOW - 40) * 1000, None], [(NOW - 20) * 1000, 1.0]]
    series = {"pointlist": points, "interval": 30, "scope": "version:v2"}
    server.answer = server.says({"status": "ok", "series": [series]})
    assert await ask(datadog(server)) == Sample(5.5, NOW - 60), "the newest has 10 s to go, and one before it is empty"
    (request,) = server.asked
    assert (request.method, request.path) == ("GET", "/api/v1/query")
    query = "avg:cpu{version:2__}.rollup(avg, 60)"
    assert dict(request.query) == {"from": f"{NOW - 300:.0f}", "to": f"{NOW:.0f}", "query": query}
    assert request.headers["DD-API-KEY"] == "apiapiapi"
    assert request.headers["DD-APPLICATION-KEY"] == "appappapp"
    assert OutsideMetric.model_validate({"datadog": {"query": "x", "api_key": "k", "app_key": "k"}, "max": 1}).datadog is not None


@pytest.mark.parametrize(
    ("status", "document", "sentence"),
    [
        (200, {"status": "ok", "series": []}, "no data: the query finds nothing"),
        (200, {"status": "ok"}, "no data: the query finds nothing"),
        (200, {"status": "ok", "series": [{"pointlist": [], "interval": 30}]}, "no data: no point is whole yet"),
        (200, {"status": "ok", "series": [{"pointlist": [[NOW * 1000, 1.0]], "interval": 30}]}, "no data: no point is whole yet"),
        (200, {"status": "ok", "series": [{"pointlist": [[1000, None]]}]}, "no data: no point is whole yet"),
        (200, {"status": "ok", "series": [{"pointlist": [[1000, "1"]]}]}, "its value is '1', which is no number"),
        (200, {"status": "ok", "series": [{"pointlist": [[1000]]}]}, "a point is a list of 1, which is no answer of Datadog"),
        (200, {"status": "ok", "series": [7]}, "pointlist is null, which is no answer of Datadog"),
        (
            200,
            {"status": "ok", "series": [{"scope": "host:a"}, {"scope": "host:b"}]},
            "the query gives 2 series (host:a, host:b, ...) and not one; leave `by` out of it",
        ),
        (200, {"status": "error", "error": "Rule 'by' fails"}, "URL answers 200: Rule 'by' fails"),
        (403, {"errors": ["Forbidden", "apiapiapi is no key"]}, "URL answers 403: Forbidden; *** is no key"),
        (429, {}, "URL answers 429: an object of 0, which is no answer of Datadog"),
    ],
)
async def test_what_is_not_one_number_of_datadog(server: Server, status: int, document: Any, sentence: str) -> None:
    server.answer = server.says(document, status)
    assert await refused(datadog(server)) == sentence.replace("URL", f"{server.url}/api/v1/query")


async def test_a_document_is_asked_for_with_values_that_stay_in_their_place(server: Server) -> None:
    server.answer = server.says({"data": {"apdex": 0.97}})
    assert await ask(http(server)) == Sample(0.97, NOW)
    assert server.asked[0].raw_path == "/stats/2%22%7D?of=v2"


@pytest.mark.parametrize(
    ("pointer", "document", "value"),
    [
        ("", 3, 3),
        ("/a~1b/~0/1", {"a/b": {"~": [1, 2.5]}}, 2.5),
        ("/", {"": 4}, 4),
        ("/~01", {"~1": 6, "/": 7}, 6),
        ("/{{ variant }}/0", {"canary": [-1e-3]}, -0.001),
        ("/{{ version }}", {'2"}': 5}, 5),
    ],
)
async def test_where_the_number_is(server: Server, pointer: str, document: Any, value: float) -> None:
    server.answer = server.says(document)
    assert (await ask(http(server, value=pointer))).value == value


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({"data": {"apdex": "0.9"}}, "what is at /data/apdex is '0.9', which is no number"),
        ({"data": {"apdex": True}}, "what is at /data/apdex is true, which is no number"),
        ({"data": {"apdex": None}}, "what is at /data/apdex is null, which is no number"),
        ({"data": {"apdex": {"x": 1}}}, "what is at /data/apdex is an object of 1, which is no number"),
        ('{"data": {"apdex": NaN}}', "no data: what is at /data/apdex is nan"),
        ('{"data": {"apdex": 1e999}}', "no data: what is at /data/apdex is inf"),
        ('{"data": {"apdex": 1' + "0" * 400 + "}}", "no data: what is at /data/apdex is inf"),
        ({"data": {}}, "no data: there is no 'apdex' in /data, which is an object of 0"),
        ({"data": [1]}, "no data: there is no 'apdex' in /data, which is a list of 1"),
        (7, "no data: there is no 'data' in the whole, which is 7"),
        ("{", "URL answers 200 and '{', which is no JSON"),
        ("", "URL answers 200 and nothing, which is no JSON"),
        ("[" * 100_000, "URL answers 200 and '" + "[" * 200 + "...', which is no JSON"),
        ("9" * 5000, "URL answers 200 and '" + "9" * 200 + "...', which is no JSON"),
    ],
)
async def test_what_is_not_a_number_of_a_document(server: Server, document: Any, sentence: str) -> None:
    server.answer = server.says(document)
    assert await refused(http(server)) == sentence.replace("URL", f"{server.url}/stats/2%22%7D")


@pytest.mark.parametrize(
    ("written", "at"),
    [(NOW - 5, NOW - 5), ("2023-11-14T22:13:15Z", NOW - 5), ("2023-11-14T23:13:15.5+01:00", NOW - 4.5)],
)
async def test_a_document_may_say_when_it_was_measured(server: Server, written: Any, at: float) -> None:
    server.answer = server.says({"data": {"apdex": 1}, "at": written})
    assert (await ask(http(server, time="/at"))).at == at


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("yesterday", "its time is 'yesterday', which is no time"),
        ("2023-11-14T22:13:15", "its time is '2023-11-14T22:13:15', without a time zone; write Z or +00:00 behind it"),
        (None, "its time is null, which is no number"),
    ],
)
async def test_what_is_no_time(server: Server, written: Any, sentence: str) -> None:
    server.answer = server.says({"data": {"apdex": 1}, "at": written})
    assert await refused(http(server, time="/at")) == sentence


async def _five_hundred(request: web.Request) -> web.Response:
    said = f"<h1>no</h1>\r\n {request.headers.get('X-Key')} {request.headers.get('Authorization')}"
    return web.Response(text=said, status=500)


async def _redirect(request: web.Request) -> web.Response:
    raise web.HTTPFound("http://127.0.0.1:1/elsewhere?key=keykeykey")


async def _hang(request: web.Request) -> web.Response:
    await asyncio.sleep(30)
    return web.Response()


async def _drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.02)


async def _huge(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"[" * 65536)


async def _compressed(request: web.Request) -> web.Response:
    response = web.Response(text="[" + "0," * 100_000 + "0]")
    response.enable_compression(web.ContentCoding.gzip)
    response.headers["Content-Encoding"] = "gzip"
    return response


async def _cut(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "100"})
    await response.prepare(request)
    await response.write(b"{}")
    assert request.transport is not None
    request.transport.abort()
    return response


@pytest.mark.parametrize("settings", [prometheus, datadog, http])
@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (_five_hundred, "answers 500 and '<h1>no</h1> "),
        (_redirect, "redirects to 'http://127.0.0.1:1/elsewhere'; write the URL that answers itself"),
        (_hang, "did not answer within 0.3 s"),
        (_drip, "did not answer within 0.3 s"),
        (_huge, "answers more than 1 MiB"),
        (_compressed, "answers compressed, which was not asked for"),
        (_cut, "cannot be asked ("),
    ],
)
async def test_a_server_may_fail_in_every_way(
    server: Server, settings: Callable[[Server], dict[str, Any]], answer: Handler, sentence: str
) -> None:
    server.answer = answer
    began = time.monotonic()
    said = await refused(settings(server))
    assert sentence in said
    assert said.startswith(server.url)
    assert len(server.asked) == 1
    assert time.monotonic() - began < 5, "in vain"


async def test_a_server_that_repeats_what_it_was_sent_gives_no_secret_away(server: Server) -> None:
    server.answer = _five_hundred
    said = await refused(http(server, **SECRETS))
    assert "<h1>no</h1> *** Bearer ***" in said
    said = await refused(http(server, username="me", password="pass"))
    assert "<h1>no</h1> None Basic ***" in said


@asynccontextmanager
async def raw(answer: bytes) -> AsyncIterator[str]:
    """A server that says just this, and ends."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b"\x00" * 100_000])
async def test_what_is_no_http_is_no_answer(answer: bytes) -> None:
    async with raw(answer) as url:
        said = await refused({"http": {"url": f"{url}/x?key=keykeykey", "value": "/a"}})
    assert said.startswith(f"{url}/x cannot be asked (")
    assert "keykeykey" not in said
    assert "\n" not in said


async def test_who_is_not_there_is_no_answer() -> None:
    async with raw(b"") as url:
        pass
    assert await refused({"http": {"url": url, "value": "/a"}}) == f"{url} cannot be asked (connection refused)"
    said = await refused({"http": {"url": "http://nobody.invalid/", "value": "/a"}})
    assert said.startswith(("http://nobody.invalid/ cannot be asked (", "http://nobody.invalid/ did not answer"))


async def test_a_server_with_tls_is_believed_by_its_authority(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    issued = authority.issue("localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.certificate, issued.key)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\n7")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context) as listening:
        port = listening.sockets[0].getsockname()[1]
        asked = {"url": f"https://localhost:{port}", "value": ""}
        assert (await ask({"http": {**asked, "ca": authority.ca}}, timeout="2s")).value == 7
        for settings in (asked, {**asked, "url": f"https://127.0.0.1:{port}", "ca": authority.ca}):
            said = await refused({"http": settings})
            assert re.search("certificate|mismatch", said), said
