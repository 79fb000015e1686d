"""Our gRPC server with the bench's two methods: `python -m tests.bench.grpc.serve_ours PORT`."""

from __future__ import annotations

import gc
import sys
from typing import Final

import trio
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.wrappers_pb2 import DESCRIPTOR, BytesValue

from infermesh.testing.grpc_node import grpc_node
from tests.bench.grpc.echo import COUNT, SAY, SERVICE, TOKEN
from wire.grpc.service import AnyRoute, Method, Sender, ServerContext, UnaryStream, UnaryUnary


class BenchService:
    name: Final = SERVICE
    file: Final[FileDescriptor] = DESCRIPTOR

    def routes(self) -> tuple[AnyRoute, ...]:
        return (
            UnaryUnary(Method(SAY, BytesValue, BytesValue), self.say),
            UnaryStream(Method(COUNT, BytesValue, BytesValue, server_streaming=True), self.count),
        )

    async def say(self, request: BytesValue, context: ServerContext) -> BytesValue:
        return request

    async def count(self, request: BytesValue, responses: Sender[BytesValue], context: ServerContext) -> None:
        for _ in range(int(request.value)):
            await responses.send(BytesValue(value=TOKEN))


async def main(port: int) -> None:
    async with grpc_node([BenchService()], at=("127.0.0.1", port)):
        gc.freeze()
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
