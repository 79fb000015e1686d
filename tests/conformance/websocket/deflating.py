"""The client's side of permessage-deflate, by zlib alone: what was agreed, and messages packed and unpacked by it."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio

from infermesh.net.websocket import WebSocketConfig
from infermesh.testing.websocket_client import RawWebSocket
from infermesh.testing.websocket_echo import EchoServer, serve_echo
from infermesh.testing.websocket_frames import Frame
from wire.websocket import DeflateConfig

_TAIL = b"\x00\x00\xff\xff"


class Agreement:
    def __init__(self, answer: bytes) -> None:
        """`answer`: the server's head."""
        lines = [line for line in answer.split(b"\r\n") if line.startswith(b"sec-websocket-extensions: ")]
        (line,) = lines
        parts = [part.strip() for part in line.partition(b": ")[2].split(b";")]
        assert parts[0] == b"permessage-deflate"
        self._client_forgets = b"client_no_context_takeover" in parts
        self._server_forgets = b"server_no_context_takeover" in parts
        bits = [int(part.partition(b"=")[2]) for part in parts if part.startswith(b"server_max_window_bits=")]
        self.server_bits = bits[0] if bits else 15
        self._packer = zlib.compressobj(wbits=-15)
        self._unpacker = zlib.decompressobj(-self.server_bits)

    def deflate(self, message: bytes) -> bytes:
        if self._client_forgets:
            self._packer = zlib.compressobj(wbits=-15)
        return (self._packer.compress(message) + self._packer.flush(zlib.Z_SYNC_FLUSH))[:-4] or b"\x00"

    def inflate(self, frame: Frame) -> bytes:
        """The message of a frame, compressed or not."""
        if frame.rsv != 4:
            assert frame.rsv == 0
            return frame.payload
        if self._server_forgets:
            self._unpacker = zlib.decompressobj(-self.server_bits)
        return self._unpacker.decompress(frame.payload + _TAIL)


@asynccontextmanager
async def deflating(config: DeflateConfig, offer: bytes = b"") -> AsyncIterator[tuple[RawWebSocket, Agreement]]:
    """A client that has agreed on compression. `offer`: what follows the extension's name."""
    async with trio.open_nursery() as nursery:
        server: EchoServer = await nursery.start(partial(serve_echo, WebSocketConfig(deflate=config)))
        line = b"sec-websocket-extensions: permessage-deflate" + offer
        with trio.fail_after(30):
            async with await RawWebSocket.dial(server.address, b"/", line) as client:
                yield client, Agreement(client.answer)
                closing = await client.close()
                assert closing is not None
                assert closing.close_code == 1000
        assert server.faults == []
        assert server.crashes == []
        nursery.cancel_scope.cancel()
