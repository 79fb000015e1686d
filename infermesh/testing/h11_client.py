"""A small HTTP/1.1 client for tests: one connection, every step in the test's hands.

h11 over a trio stream. It can send what no decent client would, stop reading, leave in the middle, and tell how
a connection ended. Not for production: no pool, no deadlines (the test has one), nothing is retried.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from types import TracebackType

import h11
import msgspec
import trio

Headers = Sequence[tuple[str, str]]


class ClientAnswer(msgspec.Struct, frozen=True):
    """A whole response. `headers` has lower-case names; the last of equal ones wins."""

    status: int
    headers: dict[str, str]
    body: bytes


def read_answers(received: bytes) -> list[ClientAnswer]:
    """The responses in what one connection received until its end, interim ones passed over.

    Raises h11.RemoteProtocolError when the last one is broken off, or when anything lies between or after them.
    """
    answers: list[ClientAnswer] = []
    while received:
        machine = h11.Connection(h11.CLIENT)
        machine.send(h11.Request(method="GET", target="/", headers=[("host", "test")]))
        machine.send(h11.EndOfMessage())
        machine.receive_data(received)
        machine.receive_data(b"")
        head: h11.Response | None = None
        body = b""
        while not isinstance(event := machine.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
        assert head is not None
        headers = {name.decode(): value.decode() for name, value in head.headers}
        answers.append(ClientAnswer(head.status_code, headers, body))
        received = machine.trailing_data[0]
    return answers


class H11Client:
    """`async with await H11Client.dial(address) as client:` and then `fetch`, or `send`, `head` and `data`."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.machine = h11.Connection(h11.CLIENT)

    @classmethod
    async def dial(cls, address: tuple[str, int]) -> H11Client:
        return cls(await trio.open_tcp_stream(*address))

    async def __aenter__(self) -> H11Client:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await trio.aclose_forcefully(self.stream)

    async def fetch(self, method: str, target: str, body: bytes = b"", headers: Headers = ()) -> ClientAnswer:
        """One exchange, whole. The connection may be used again afterwards if both sides keep it."""
        await self.send(method, target, body, headers)
        head = await self.head()
        received = b"".join([data async for data in self.data()])
        if self.machine.our_state is h11.DONE and self.machine.their_state is h11.DONE:
            self.machine.start_next_cycle()
        return ClientAnswer(head.status_code, {name.decode(): value.decode() for name, value in head.headers}, received)

    async def send(self, method: str, target: str, body: bytes = b"", headers: Headers = ()) -> None:
        """A whole request."""
        fields = [("host", "test"), *headers]
        if body:
            fields += [("content-type", "application/json"), ("content-length", str(len(body)))]
        data = self.machine.send(h11.Request(method=method, target=target, headers=fields)) or b""
        if body:
            data += self.machine.send(h11.Data(data=body)) or b""
        data += self.machine.send(h11.EndOfMessage()) or b""
        await self.stream.send_all(data)

    async def head(self) -> h11.Response:
        """The response's head; interim ones are passed over."""
        while True:
            event = await self._next()
            if isinstance(event, h11.Response):
                return event
            assert isinstance(event, h11.InformationalResponse), event

    async def data(self) -> AsyncIterator[bytes]:
        """The pieces of the body as they come. Raises h11.RemoteProtocolError if it ends too early."""
        while (piece := await self.next_data()) is not None:
            yield piece

    async def next_data(self) -> bytes | None:
        """The next piece of the body; None at its end."""
        event = await self._next()
        if isinstance(event, h11.Data):
            return bytes(event.data)
        assert isinstance(event, h11.EndOfMessage), event
        return None

    async def events(self) -> AsyncGenerator[str, None]:
        """The payloads of an event stream, one `data:` line each, `[DONE]` among them."""
        buffer = b""
        while (piece := await self.next_data()) is not None:
            buffer += piece
            *whole, buffer = buffer.split(b"\n\n")
            for event in filter(None, whole):  # Blank lines between events mean nothing.
                yield event.removeprefix(b"\n").removeprefix(b"data: ").decode()
        assert not buffer, buffer

    async def ended(self) -> bool:
        """Wait for the connection's end, whatever comes before it. True: by a reset."""
        try:
            while await self.stream.receive_some(65_536):
                pass
        except trio.BrokenResourceError:
            return True
        return False

    def reset(self) -> None:
        """Leave with a reset in place of an end."""
        self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.socket.close()

    async def _next(self) -> object:
        while True:
            event = self.machine.next_event()
            if event is not h11.NEED_DATA:
                return event
            self.machine.receive_data(bytes(await self.stream.receive_some(65_536)))
