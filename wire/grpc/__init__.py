"""gRPC over HTTP/2 as values: status, deadlines, metadata, message framing, heads and trailers of a call.

`call` reads and writes header blocks, `framing` finds messages in DATA, `service` says what generated code and its
drivers agree on. Not here: streams and flow control (`wire.http2`), waiting (`infermesh.net.grpc`).
"""

from wire.grpc.call import (
    CallEnd,
    CallHead,
    NotGrpc,
    ResponseStart,
    is_grpc,
    read_request,
    read_response,
    read_trailers,
)
from wire.grpc.encoding import Encoding
from wire.grpc.framing import MessageReader, encode_message, inflate
from wire.grpc.metadata import NO_METADATA, Metadata
from wire.grpc.status import Code, GrpcStatus, RpcError, from_http, from_reset, http_of, retryable

__all__ = [
    "NO_METADATA",
    "CallEnd",
    "CallHead",
    "Code",
    "Encoding",
    "GrpcStatus",
    "MessageReader",
    "Metadata",
    "NotGrpc",
    "ResponseStart",
    "RpcError",
    "encode_message",
    "from_http",
    "from_reset",
    "http_of",
    "inflate",
    "is_grpc",
    "read_request",
    "read_response",
    "read_trailers",
    "retryable",
]
