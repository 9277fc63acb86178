"""Messages to begin with: what clients and servers send, and what has broken other proxies."""

from __future__ import annotations

from typing import Final

_HOST = b"Host: a\r\n"

#: Chunked bodies, most of them good.
CHUNKED: Final = (
    b"0\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\n",
    b'1;a;b=c;d="e\\"; \xe9"\r\nx\r\n000;z\r\n\r\n',
    b"1\r\nx\r\n1\r\ny\r\n0\r\nGrpc-Status: 0\r\nX-Sum:1\r\n\r\n",
    b"0\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nX_Y: z\r\n\r\n",
    b"0000000000000001\r\n\n\r\n0\r\n\r\n",
    b"2\r\n\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"7fffffffffffffff\r\nx",
    b"5 \r\nhello\r\n0\r\n\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b"5\nhello\r\n0\r\n\r\n",
    b"5;\r\nhello\r\n0\r\n\r\n",
    b"0\r\nA : b\r\n\r\n",
    b"0\r\n a: b\r\n\r\n",
    b"1;" + b"a" * 4094 + b"\r\nx\r\n0\r\n\r\n",
    b"0\r\nX: " + b"a" * 8180 + b"\r\n\r\n",
)

_BODIES = (
    b"\r\n",
    b"Content-Length: 5\r\n\r\nhello",
    b"content-length:05 \r\n\r\nhello",
    b"Content-Length: 0\r\n\r\n",
    b"Content-Length: 28\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n",
    *[b"Transfer-Encoding: chunked\r\n\r\n" + body for body in CHUNKED[:8]],
    b"transfer-encoding:Chunked \r\n\r\n" + CHUNKED[1],
)
_FIELDS = (
    b"",
    b"Accept: */*\r\nX-A:\xe9 b\t\r\nx-empty:\r\nCookie: a=b\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive, X-A\r\nX-A: 1\r\nX-B: 2\r\nX_C: 3\r\n",
    b"TE: trailers\r\nConnection: TE\r\nTrailer: X-Sum\r\n",
    b"Expect: 100-continue\r\n",
    b"X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nX-Forwarded-For: 5.6.7.8\r\nX-Forwarded-Proto: http\r\n",
    b"X-Forwarded-Host: p\r\nX-Forwarded-Port: 1\r\nX-Forwarded-Host: q\r\nX-Forwarded-Port: 2\r\nX-Forwarded-Prefix: /a\r\n",
    b"X-Forwarded-For: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\nX-Request-ID: abc\r\nX-Real-IP: 1.2.3.4\r\n",
    b"Keep-Alive: 5\r\nProxy-Connection: x\r\nProxy-Authorization: x\r\nHTTP2-Settings: x\r\n",
)

#: Requests, most of them good.
REQUESTS: Final = (
    *[b"POST / HTTP/1.1\r\n" + _HOST + fields + body for fields in _FIELDS for body in _BODIES],
    *[
        line + b"\r\n" + _HOST + b"\r\n"
        for line in (
            *(b"GET / HTTP/1.1", b"GET /a?b=c HTTP/1.1", b"HEAD //./..%2f HTTP/1.1", b"GET / HTTP/1.0", b"GET / HTTP/1.2"),
            *(b"OPTIONS * HTTP/1.1", b"GET http://b:80/c?d HTTP/1.1", b"DELETE http://b HTTP/1.1", b"OPTIONS http://b HTTP/1.1"),
            *(b"M-SEARCH / HTTP/1.1", b"TRACE / HTTP/1.1", b"CONNECT a:1 HTTP/1.1", b"GET / HTTP/2.0", b"GET /#a HTTP/1.1"),
        )
    ],
    b"GET / HTTP/1.0\r\n\r\n",
    b"PUT / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx",
    b"GET / HTTP/1.1\r\n" + _HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x00",
    b"\r\n\r\nGET / HTTP/1.1\r\nhost:[::1]:80\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + _HOST + b"\r\nPOST /b HTTP/1.1\r\n" + _HOST + b"Content-Length: 1\r\n\r\nxGET / HTTP/1.1\r\n",
    b"POST / HTTP/1.1\r\n" + _HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED[0],
    b"GET / HTTP/1.1\n" + _HOST + b"\n\n",
    b"GET / HTTP/1.1\r\n" + _HOST + b"X: a\r\n b\r\n\r\n",
)

#: Responses, most of them good.
RESPONSES: Final = (
    *[b"HTTP/1.1 200 OK\r\n" + fields + body for fields in _FIELDS[:5] for body in _BODIES],
    *[
        b"HTTP/1.1 " + status + b"\r\nDate: now\r\n" + body
        for status in (b"204 No Content", b"304 Not Modified", b"404", b"503 ", b"100 Continue", b"103 Early Hints", b"799 \xe9")
        for body in _BODIES[:6]
    ],
    b"HTTP/1.0 200 OK\r\n\r\nuntil close",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx",
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED[1],
    b"HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nVary: c\r\nX-Request-ID: d\r\n\r\nuntil close",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x00",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\ny",
    b"HTTP/1.1 099 x\r\n\r\n",
    b"HTTP/2.0 200 OK\r\n\r\n",
)
