"""A small HTTP/1.1 client for slow paths: polling a runtime, listening to a peer, asking a daemon.

h11 over trio streams: right before fast, about 0.3 ms of CPU a request. Not for inference traffic, which the
reactor relays. No redirects, cookies, compression or proxies: what answers must be the server itself.

`fetch` is one exchange, `HttpClient` keeps one connection to one server for a poller. Every wait is under a deadline
that the caller names, every answer under a size that the caller names, and everything that can go wrong is one plain
FetchError.
"""

from __future__ import annotations

import ssl
from typing import Unpack

import h11
import msgspec
import trio

from infermesh.net.exchange import (
    Connection,
    FetchError,
    FetchRefusedError,
    FetchTimeoutError,
    Headers,
    RequestOptions,
    connect,
    fields_of,
    parse_url,
    translated,
)

__all__ = [
    "FetchError",
    "FetchRefusedError",
    "FetchTimeoutError",
    "FetchedResponse",
    "Headers",
    "HttpClient",
    "RequestOptions",
    "fetch",
]


class FetchedResponse(msgspec.Struct, frozen=True):
    status: int
    headers: tuple[tuple[bytes, bytes], ...]  # Names in lower case.
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """The first value of `name` (lower case), None when it is missing."""
        return next((value for key, value in self.headers if key == name), None)


async def fetch(
    url: str,
    *,
    deadline_s: float,
    body_bytes_max: int,
    tls: ssl.SSLContext | None = None,
    **request: Unpack[RequestOptions],
) -> FetchedResponse:
    """One exchange on its own connection. `deadline_s` covers all of it, from the name lookup on."""
    place = parse_url(url)
    client = HttpClient(place.base_url, tls=tls)
    try:
        return await client.request(place.path, deadline_s=deadline_s, body_bytes_max=body_bytes_max, **request)
    finally:
        await client.aclose()


class HttpClient:
    """One kept connection to one server; requests that overlap wait for each other inside their deadlines.

    A kept connection that turns out to be dead before the answer begins is replaced once, silently, when the
    method is GET or HEAD: the server may have closed it between two polls. A path in `base_url` goes before
    the path of each request. The owner calls `aclose`.
    """

    def __init__(self, base_url: str, *, tls: ssl.SSLContext | None = None) -> None:
        self._place = parse_url(base_url)
        self._prefix = self._place.path.rstrip("/")
        self._tls = tls
        self._connection: Connection | None = None
        self.connections_made = 0
        self._turn = trio.Lock()

    async def request(
        self, path: str, *, deadline_s: float, body_bytes_max: int, **request: Unpack[RequestOptions]
    ) -> FetchedResponse:
        path = self._prefix + path
        what = f"{request.get('method', 'GET')} {self._place.base_url}{path.partition('?')[0]}"
        with trio.move_on_after(deadline_s), translated(what):
            async with self._turn:
                return await self._exchange(path, body_bytes_max, request)
        raise FetchTimeoutError(f"{what}: no complete answer within {deadline_s:g} s")

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.aclose()

    async def _exchange(self, path: str, body_bytes_max: int, request: RequestOptions) -> FetchedResponse:
        # Taken out while in use: cancelled in the middle, it is closed and never used again.
        kept, self._connection = self._connection, None
        may_repeat = request.get("method", "GET") in ("GET", "HEAD")
        if kept is not None:
            try:
                return await self._exchange_on(kept, path, body_bytes_max, request)
            except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError):
                if not may_repeat or kept.answer_begun:
                    raise
        fresh = await connect(self._place, self._tls)
        self.connections_made += 1
        return await self._exchange_on(fresh, path, body_bytes_max, request)

    async def _exchange_on(
        self, connection: Connection, path: str, body_bytes_max: int, request: RequestOptions
    ) -> FetchedResponse:
        try:
            head = await connection.send(self._place, path, request)
            body = await connection.read_body(head, body_bytes_max)
            reusable = connection.recycle()
        except BaseException:
            await connection.aclose()
            raise
        if reusable:
            self._connection = connection
        else:
            await connection.aclose()
        return FetchedResponse(head.status_code, fields_of(head), body)
