"""A client that sends frames by hand over a socket and reads whatever comes back, also after GOAWAY."""

from __future__ import annotations

from types import TracebackType

import trio

from tests.wire.http2.raw_peer import PREFACE, SETTINGS, Frame, frame


class RawClient:
    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = b""
        self.seen: list[Frame] = []

    @classmethod
    async def dial(cls, address: tuple[str, int]) -> RawClient:
        client = cls(await trio.open_tcp_stream(*address))
        await client.send(PREFACE + frame(SETTINGS))
        return client

    async def __aenter__(self) -> RawClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await trio.aclose_forcefully(self._stream)

    async def send(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def next_frame(self) -> Frame | None:
        """None: the server has closed the connection."""
        while True:
            buffer = self._buffer
            end = 9 + int.from_bytes(buffer[:3], "big")
            if len(buffer) >= max(9, end):
                self._buffer = buffer[end:]
                found = Frame(buffer[3], buffer[4], int.from_bytes(buffer[5:9], "big"), buffer[9:end])
                self.seen.append(found)
                return found
            try:
                more = await self._stream.receive_some(65_536)
            except trio.BrokenResourceError:
                return None
            if not more:
                return None
            self._buffer += bytes(more)

    async def next_of(self, kind: int) -> Frame:
        while True:
            found = await self.next_frame()
            assert found is not None, f"the connection ended without a frame of type {kind}; it saw {self.seen}"
            if found.kind == kind:
                return found

    async def rest(self) -> list[Frame]:
        """Everything until the end of the connection."""
        rest = []
        while (found := await self.next_frame()) is not None:
            rest.append(found)
        return rest
