"""Where a raw peer connects: one listening port of a real process, and what is known of its answers."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from tests.conformance.http2.raw_peer import ANSWER_S, RawPeer, Response

HOST = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Port:
    """A GET of `path` is answered with a body; a POST takes any body and is answered once it is whole."""

    name: str
    number: int
    tls: ssl.SSLContext | None = None
    path: bytes
    status: int = 200
    """Of the answer to a GET of `path`."""
    echoes: bool = True
    """The answer to an unknown path says which it was: so a test sees how a field block was read."""

    patience_s: float = ANSWER_S
    """Of a peer, for whatever it waits for."""

    @property
    def scheme(self) -> bytes:
        return b"https" if self.tls is not None else b"http"

    @property
    def authority(self) -> bytes:
        return f"{HOST}:{self.number}".encode()

    async def dial(self, alpn: Sequence[str] = ("h2",)) -> trio.abc.Stream:
        """A connection up to the first octet of HTTP, which is the caller's to close."""
        raw = await trio.open_tcp_stream(HOST, self.number)
        if self.tls is None:
            return raw
        self.tls.set_alpn_protocols(list(alpn))
        stream = trio.SSLStream(raw, self.tls, server_hostname=HOST, https_compatible=True)
        await stream.do_handshake()
        assert not alpn or stream.selected_alpn_protocol() == alpn[0], stream.selected_alpn_protocol()
        return stream

    @asynccontextmanager
    async def peer(self, *, patience_s: float | None = None) -> AsyncIterator[RawPeer]:
        """A connected peer that has said nothing yet."""
        stream = await self.dial()
        try:
            yield RawPeer(
                stream,
                scheme=self.scheme,
                authority=self.authority,
                path=self.path,
                status=self.status,
                patience_s=self.patience_s if patience_s is None else patience_s,
            )
        finally:
            await trio.aclose_forcefully(stream)

    def understood(self, response: Response, path: bytes) -> bool:
        """Whether this is the answer to a request for that path."""
        if self.echoes and path != self.path:
            return path in response.body
        return response.status == (self.status if path == self.path else 404)
