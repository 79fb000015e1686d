"""grpclib's server with the bench's two methods: `python -m tests.bench.grpc.serve_grpclib PORT`.

Needs grpclib and multidict on the path; the bench puts them there.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from typing import Any

from google.protobuf.wrappers_pb2 import BytesValue
from grpclib.const import Cardinality, Handler
from grpclib.server import Server

from tests.bench.grpc.echo import COUNT, SAY, TOKEN


class BenchService:
    async def say(self, stream: Any) -> None:
        request = await stream.recv_message()
        await stream.send_message(request)

    async def count(self, stream: Any) -> None:
        request = await stream.recv_message()
        for _ in range(int(request.value)):
            await stream.send_message(BytesValue(value=TOKEN))

    def __mapping__(self) -> dict[str, Any]:
        return {
            SAY: Handler(self.say, Cardinality.UNARY_UNARY, BytesValue, BytesValue),
            COUNT: Handler(self.count, Cardinality.UNARY_STREAM, BytesValue, BytesValue),
        }


async def main(port: int) -> None:
    server = Server([BenchService()])
    await server.start("127.0.0.1", port)
    gc.freeze()
    await server.wait_closed()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
