"""grpcio's Python server with the bench's two methods: `python -m tests.bench.grpc.serve_grpcio PORT sync|aio`."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
from google.protobuf.wrappers_pb2 import BytesValue

from tests.bench.grpc.echo import SERVICE, TOKEN

THREADS = 10  # As in grpc's own examples.


def _say(request: BytesValue, context: grpc.ServicerContext) -> BytesValue:
    return request


def _count(request: BytesValue, context: grpc.ServicerContext) -> Iterator[BytesValue]:
    for _ in range(int(request.value)):
        yield BytesValue(value=TOKEN)


async def _say_async(request: BytesValue, context: grpc.aio.ServicerContext) -> BytesValue:
    return request


async def _count_async(request: BytesValue, context: grpc.aio.ServicerContext) -> AsyncIterator[BytesValue]:
    for _ in range(int(request.value)):
        yield BytesValue(value=TOKEN)


def _handlers(say: object, count: object) -> tuple[grpc.GenericRpcHandler]:
    messages = {
        "request_deserializer": BytesValue.FromString,
        "response_serializer": BytesValue.SerializeToString,
    }
    methods = {
        "Say": grpc.unary_unary_rpc_method_handler(say, **messages),
        "Count": grpc.unary_stream_rpc_method_handler(count, **messages),
    }
    return (grpc.method_handlers_generic_handler(SERVICE, methods),)


def serve_sync(port: int) -> None:
    server = grpc.server(ThreadPoolExecutor(THREADS), handlers=_handlers(_say, _count))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    gc.freeze()
    server.wait_for_termination()


async def serve_aio(port: int) -> None:
    server = grpc.aio.server(handlers=_handlers(_say_async, _count_async))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    gc.freeze()
    await server.wait_for_termination()


if __name__ == "__main__":
    if sys.argv[2] == "sync":
        serve_sync(int(sys.argv[1]))
    else:
        asyncio.run(serve_aio(int(sys.argv[1])))
