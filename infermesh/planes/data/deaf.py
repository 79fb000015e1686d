"""The reader of a stream that was answered at its head: what still comes is thrown away."""

from __future__ import annotations

from infermesh.net.http2 import Http2ServerStream
from wire.http1 import Field


class Deaf:
    __slots__ = ("_stream",)

    def __init__(self, stream: Http2ServerStream) -> None:
        self._stream = stream

    def on_data(self, data: bytes, flow_bytes: int, *, end: bool) -> None:
        self._stream.credit(flow_bytes)

    def on_trailers(self, fields: list[Field]) -> None:
        pass

    def on_drained(self) -> None:
        pass
