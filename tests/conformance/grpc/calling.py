"""A gRPC client that sends what it is told, frame by frame, and holds the answers against doc/PROTOCOL-HTTP2.md.

    async with raw_grpc() as raw:
        await raw.send(raw.head(1), raw.message(1, b"hi", end=True))
        assert (await raw.answer(1)).code == Code.OK

Messages are BytesValue by hand (a tag, a length, bytes). What comes back is judged here as far as every answer must
have it: HTTP status 200, the content type, `grpc-status` as plain decimal in the block that ends the stream.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
from google.protobuf.wrappers_pb2 import BytesValue

from infermesh.testing.grpc_echo import EchoService
from infermesh.testing.grpc_node import GrpcNode, NodeShape, grpc_node
from tests.conformance.http2.frames import data, headers
from tests.conformance.http2.raw_peer import Pairs, RawPeer, Response
from wire.grpc import Code
from wire.grpc.message import decode_message_text

ECHO = b"/infermesh.testing.Echo/"


@dataclass
class Answer:
    """What came on one stream, as gRPC has it."""

    raw: Response
    messages: list[bytes] = field(default_factory=list)

    @property
    def ending(self) -> dict[bytes, bytes]:
        """The block with `grpc-status`: trailers, or the head of a response without messages."""
        return dict(self.raw.trailers or self.raw.fields)

    @property
    def code(self) -> int:
        value = self.ending[b"grpc-status"]
        assert value == b"%d" % int(value), f"grpc-status {value!r} is not plain decimal"
        return int(value)

    @property
    def text(self) -> str:
        return decode_message_text(self.ending.get(b"grpc-message", b""))

    @property
    def trailers_only(self) -> bool:
        return not self.raw.trailers and not self.raw.body

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in [*self.raw.fields, *self.raw.trailers] if key == name]


class RawGrpc(RawPeer):
    """RawPeer with the words of gRPC."""

    node: GrpcNode
    echo: EchoService

    def head(
        self, stream_id: int, method: str = "Say", *extra: tuple[bytes, bytes], end: bool = False, bare: bool = False
    ) -> bytes:
        """The head of a call. `bare`: nothing but pseudo fields and `extra`."""
        usual = () if bare else ((b"content-type", b"application/grpc"), (b"te", b"trailers"))
        return headers(stream_id, self.block(self.call_fields(method, *usual, *extra)), end=end)

    def call_fields(self, method: str, *extra: tuple[bytes, bytes]) -> Pairs:
        path = ECHO + method.encode() if not method.startswith("/") else method.encode()
        return [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path),
            (b":authority", self.authority),
            *extra,
        ]

    def message(self, stream_id: int, value: bytes, *, end: bool = False, flag: int = 0) -> bytes:
        return data(stream_id, framed(packed(value), flag), end=end)

    async def answer(self, stream_id: int, *, feed: bool = False) -> Answer:
        """A whole answer, and what must be true of each."""
        raw = await self.response(stream_id, feed=feed)
        assert raw.fields, f"stream {stream_id} was reset ({raw.reset}) without a word"
        assert raw.status == 200
        content_types = [value for name, value in raw.fields if name == b"content-type"]
        assert content_types == [b"application/grpc"]
        assert b"content-length" not in dict(raw.fields)
        found = Answer(raw)
        body = raw.body
        while body:
            size = int.from_bytes(body[1:5], "big")
            assert len(body) >= 5 + size, "the answer ends inside a message"
            found.messages.append(
                bytes(BytesValue.FromString(body[5 : 5 + size]).value) if not body[0] else body[: 5 + size]
            )
            body = body[5 + size :]
        assert found.code in list(Code)
        return found

    async def hang_up(self) -> None:
        await trio.aclose_forcefully(self._stream)

    async def call(self, stream_id: int, method: str, value: bytes, *extra: tuple[bytes, bytes]) -> Answer:
        """One whole unary call with nothing wrong."""
        await self.send(self.head(stream_id, method, *extra), self.message(stream_id, value, end=True))
        return await self.answer(stream_id)


def packed(value: bytes) -> bytes:
    return BytesValue(value=value).SerializeToString()


def framed(message: bytes, flag: int = 0) -> bytes:
    return bytes([flag]) + len(message).to_bytes(4, "big") + message


@asynccontextmanager
async def raw_grpc(shape: NodeShape | None = None, *pairs: tuple[int, int]) -> AsyncIterator[RawGrpc]:
    """A connection to a port with the echo service, greeted. `pairs`: our settings."""
    echo = EchoService()
    async with grpc_node([echo], shape or NodeShape()) as node:
        stream = await trio.open_tcp_stream(*node.address)
        try:
            peer = RawGrpc(stream, scheme=b"http", authority=node.target.encode(), path=ECHO + b"Say", status=200)
            peer.node, peer.echo = node, echo
            await peer.greet(*pairs)
            with trio.fail_after(20):
                yield peer
        finally:
            await trio.aclose_forcefully(stream)
