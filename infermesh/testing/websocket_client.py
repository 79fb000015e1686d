"""A WebSocket client of raw frames over one TCP connection: says what it is told to, and keeps what comes.

`async with await RawWebSocket.dial(address) as client:` opens one and checks the answer; frames are then sent as they
are and read one by one. Not a client for use: it answers no ping and closes nothing by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

import trio

from infermesh.testing.websocket_frames import ACCEPT, Frame, client_frame, close_payload, read_frames, upgrade_request


class RawWebSocket:
    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.answer = b""
        """The head that opened it."""
        self.over = False
        """The server has closed its side."""
        self._frames: list[Frame] = []
        self._rest = b""

    @classmethod
    async def dial(cls, address: tuple[str, int], path: bytes = b"/", *more: bytes, first: bytes = b"") -> RawWebSocket:
        """`more`: further lines of the request. `first`: frames that are sent right behind it."""
        client = cls(await trio.open_tcp_stream(*address))
        await client.stream.send_all(upgrade_request(path, *more) + first)
        await client._open()
        return client

    async def _open(self) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            piece = bytes(await self.stream.receive_some())
            assert piece, f"closed in the handshake, after {data!r}"
            data += piece
        self.answer, _, rest = data.partition(b"\r\n\r\n")
        assert self.answer.startswith(b"HTTP/1.1 101 "), data
        assert b"sec-websocket-accept: " + ACCEPT in self.answer, data
        self._take(rest)

    async def __aenter__(self) -> RawWebSocket:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await trio.aclose_forcefully(self.stream)

    async def send(self, *frames: bytes) -> None:
        await self.stream.send_all(b"".join(frames))

    async def say(self, opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> None:
        await self.send(client_frame(opcode, payload, fin=fin, rsv=rsv))

    async def close(self, code: int = 1000) -> Frame | None:
        """Send a close frame; the server's answer to it, whatever came before thrown away."""
        await self.say(0x8, close_payload(code))
        return (await self.read_all() or [None])[-1]

    async def read(self) -> Frame | None:
        """The next frame; None at the end."""
        while not self._frames and not self.over:
            await self._receive()
        return self._frames.pop(0) if self._frames else None

    async def read_all(self) -> Sequence[Frame | None]:
        """Every frame until the server closes the connection."""
        while not self.over:
            await self._receive()
        frames, self._frames = self._frames, []
        return frames

    async def _receive(self) -> None:
        try:
            piece = bytes(await self.stream.receive_some())
        except trio.BrokenResourceError:
            piece = b""
        if piece:
            self._take(piece)
        else:
            self.over = True
            assert not self._rest, f"closed inside a frame: {self._rest[:40]!r}"

    def _take(self, piece: bytes) -> None:
        frames, self._rest = read_frames(self._rest + piece)
        self._frames += frames
