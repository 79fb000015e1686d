"""A gRPC service that shows every kind of call, for tests: messages are BytesValue, so that any client can speak it.

Each method does one thing that a test can see from outside; `seen` counts what reached the methods and how it left.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import trio
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.wrappers_pb2 import DESCRIPTOR, BytesValue, StringValue

from wire.grpc import Code, Encoding
from wire.grpc.service import (
    AnyRoute,
    Method,
    Receiver,
    Sender,
    ServerContext,
    StreamStream,
    StreamUnary,
    UnaryStream,
    UnaryUnary,
)

_SERVICE: Final = "infermesh.testing.Echo"


def _method(
    name: str, *, client_streaming: bool = False, server_streaming: bool = False
) -> Method[BytesValue, BytesValue]:
    return Method(
        f"/{_SERVICE}/{name}",
        BytesValue,
        BytesValue,
        client_streaming=client_streaming,
        server_streaming=server_streaming,
    )


SAY: Final = _method("Say")  # The same bytes back, with the metadata that begins with `x-`.
SQUEEZE: Final = _method("Squeeze")  # The same, compressed if the client reads gzip.
FAIL: Final = _method("Fail")  # The code is the message's first byte; with a detail.
CRASH: Final = _method("Crash")
WAIT: Final = _method("Wait")  # Never answers by itself.
COUNT: Final = _method("Count", server_streaming=True)  # As many messages as the request's text says.
POUR: Final = _method("Pour", server_streaming=True)  # 1 KiB each, for ever.
JOIN: Final = _method("Join", client_streaming=True)  # All messages as one.
CHAT: Final = _method("Chat", client_streaming=True, server_streaming=True)  # Each message back, as it comes.
HUSH: Final = _method("Hush", client_streaming=True, server_streaming=True)  # Reads nothing and ends at once.


class EchoService:
    name: Final = _SERVICE
    file: Final[FileDescriptor] = DESCRIPTOR

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()  # "begun", "cancelled" and the names of methods.

    def routes(self) -> tuple[AnyRoute, ...]:
        return (
            UnaryUnary(SAY, self.say),
            UnaryUnary(SQUEEZE, self.squeeze),
            UnaryUnary(FAIL, self.fail),
            UnaryUnary(CRASH, self.crash),
            UnaryUnary(WAIT, self.wait),
            UnaryStream(COUNT, self.count),
            UnaryStream(POUR, self.pour),
            StreamUnary(JOIN, self.join),
            StreamStream(CHAT, self.chat),
            StreamStream(HUSH, self.hush),
        )

    async def say(self, request: BytesValue, context: ServerContext) -> BytesValue:
        self.seen["say"] += 1
        own = [pair for pair in context.metadata if pair[0].startswith("x-")]
        context.set_leading([*own, ("x-path", context.path)])
        context.set_trailing([("x-trailing", "yes"), *own])
        return request

    async def squeeze(self, request: BytesValue, context: ServerContext) -> BytesValue:
        context.set_encoding(Encoding.GZIP)
        return request

    async def fail(self, request: BytesValue, context: ServerContext) -> BytesValue:
        context.set_trailing([("x-why", "told to")])
        context.abort(Code(request.value[0]), "as told: 100 % früh", [StringValue(value="a detail")])

    async def crash(self, request: BytesValue, context: ServerContext) -> BytesValue:
        raise ZeroDivisionError("a defect")

    async def wait(self, request: BytesValue, context: ServerContext) -> BytesValue:
        self.seen["begun"] += 1
        try:
            await trio.sleep_forever()
        finally:
            self.seen["cancelled"] += 1

    async def count(self, request: BytesValue, responses: Sender[BytesValue], context: ServerContext) -> None:
        for number in range(int(request.value)):
            await responses.send(BytesValue(value=b"%d" % number))

    async def pour(self, request: BytesValue, responses: Sender[BytesValue], context: ServerContext) -> None:
        self.seen["begun"] += 1
        try:
            while True:
                await responses.send(BytesValue(value=bytes(1024)))
                self.seen["poured"] += 1
        finally:
            self.seen["cancelled"] += 1

    async def join(self, requests: Receiver[BytesValue], context: ServerContext) -> BytesValue:
        return BytesValue(value=b"".join([request.value async for request in requests]))

    async def chat(self, requests: Receiver[BytesValue], responses: Sender[BytesValue], context: ServerContext) -> None:
        self.seen["begun"] += 1
        try:
            async for request in requests:
                await responses.send(request)
        except trio.Cancelled:
            self.seen["cancelled"] += 1
            raise

    async def hush(self, requests: Receiver[BytesValue], responses: Sender[BytesValue], context: ServerContext) -> None:
        """Ends while the client still speaks."""
