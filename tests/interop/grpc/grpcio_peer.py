"""grpcio on either side of the echo service, with the serializers that its generic interface asks for.

Not its generated code: messages are the same classes that our side uses, so that one process can hold both.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as PackedAny
from google.protobuf.wrappers_pb2 import BytesValue, StringValue
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from wire.grpc.service import Method

_LARGE = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


def value(data: bytes) -> BytesValue:
    return BytesValue(value=data)


@contextmanager
def grpcio_channel(target: str, *options: tuple[str, int]) -> Iterator[grpc.Channel]:
    # Tests must not share connections through grpcio's pool of them.
    apart = ("grpc.use_local_subchannel_pool", 1)
    with grpc.insecure_channel(target, options=[*_LARGE, apart, *options]) as channel:
        yield channel


def caller(channel: grpc.Channel, method: Method[BytesValue, BytesValue]) -> Any:
    """The multicallable of a method."""
    kinds = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }
    make = kinds[method.client_streaming, method.server_streaming]
    return make(method.path, BytesValue.SerializeToString, BytesValue.FromString)


@dataclass
class GrpcioServer:
    target: str
    server: grpc.Server
    address: tuple[str, int]
    cancelled: threading.Event = field(default_factory=threading.Event)
    metadata: list[dict[str, str | bytes]] = field(default_factory=list)
    remaining_s: list[float | None] = field(default_factory=list)


class _Echo:
    """The methods of infermesh.testing.grpc_echo, the way grpcio has them."""

    def __init__(self, seen: GrpcioServer) -> None:
        self._seen = seen

    def say(self, request: BytesValue, context: Any) -> BytesValue:
        metadata = {key: value for key, value in context.invocation_metadata() if key.startswith("x-")}
        self._seen.metadata.append(metadata)
        self._seen.remaining_s.append(context.time_remaining())
        context.send_initial_metadata(tuple(metadata.items()))
        context.set_trailing_metadata((("x-trailing", "yes"), *metadata.items()))
        return request

    def squeeze(self, request: BytesValue, context: Any) -> BytesValue:
        context.set_compression(grpc.Compression.Gzip)
        return request

    def fail(self, request: BytesValue, context: Any) -> BytesValue:
        detail = PackedAny()
        detail.Pack(StringValue(value="a detail"))
        status = Status(code=request.value[0], message="as told: 100 % früh", details=[detail])
        context.abort_with_status(rpc_status.to_status(status))
        raise AssertionError("aborted")

    def crash(self, request: BytesValue, context: Any) -> BytesValue:
        raise ZeroDivisionError("a defect")

    def wait(self, request: BytesValue, context: Any) -> BytesValue:
        gone = threading.Event()
        context.add_callback(gone.set)
        gone.wait(30)
        self._seen.cancelled.set()
        return request

    def count(self, request: BytesValue, context: Any) -> Iterator[BytesValue]:
        for number in range(int(request.value)):
            yield value(b"%d" % number)

    def pour(self, request: BytesValue, context: Any) -> Iterator[BytesValue]:
        context.add_callback(self._seen.cancelled.set)
        while context.is_active():
            yield value(bytes(1024))

    def join(self, requests: Iterator[BytesValue], context: Any) -> BytesValue:
        return value(b"".join([request.value for request in requests]))

    def chat(self, requests: Iterator[BytesValue], context: Any) -> Iterator[BytesValue]:
        yield from requests

    def hush(self, requests: Iterator[BytesValue], context: Any) -> Iterator[BytesValue]:
        return iter(())


@contextmanager
def grpcio_server(
    *options: tuple[str, int], prepare: Callable[[grpc.Server], None] | None = None
) -> Iterator[GrpcioServer]:
    server = grpc.server(ThreadPoolExecutor(32), options=[*_LARGE, ("grpc.so_reuseport", 0), *options])
    seen = GrpcioServer("", server, ("127.0.0.1", 0))
    echo = _Echo(seen)
    codec = {"request_deserializer": BytesValue.FromString, "response_serializer": BytesValue.SerializeToString}
    handlers = {
        "Say": grpc.unary_unary_rpc_method_handler(echo.say, **codec),
        "Squeeze": grpc.unary_unary_rpc_method_handler(echo.squeeze, **codec),
        "Fail": grpc.unary_unary_rpc_method_handler(echo.fail, **codec),
        "Crash": grpc.unary_unary_rpc_method_handler(echo.crash, **codec),
        "Wait": grpc.unary_unary_rpc_method_handler(echo.wait, **codec),
        "Count": grpc.unary_stream_rpc_method_handler(echo.count, **codec),
        "Pour": grpc.unary_stream_rpc_method_handler(echo.pour, **codec),
        "Join": grpc.stream_unary_rpc_method_handler(echo.join, **codec),
        "Chat": grpc.stream_stream_rpc_method_handler(echo.chat, **codec),
        "Hush": grpc.stream_stream_rpc_method_handler(echo.hush, **codec),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("infermesh.testing.Echo", handlers),))
    if prepare is not None:
        prepare(server)
    port = server.add_insecure_port("127.0.0.1:0")
    seen.target = f"127.0.0.1:{port}"
    seen.address = ("127.0.0.1", port)
    server.start()
    try:
        yield seen
    finally:
        server.stop(0).wait()
