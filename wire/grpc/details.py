"""`grpc-status-details-bin`: a google.rpc.Status beside the plain status, with the same code and message.

The message type is that of googleapis-common-protos, which is protobuf alone. Types inside `details` are opaque here:
whoever wants one unpacks the Any.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError, Message
from google.rpc.status_pb2 import Status

from wire.grpc.status import Code, GrpcStatus


def encode_details(code: Code, message: str, details: Iterable[Message]) -> bytes:
    """For `RpcError.details` and `GrpcStatus.details`: each of `details` is packed into an Any."""
    status = Status(code=int(code), message=message)
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    return bytes(status.SerializeToString())


def decode_details(details: bytes | None) -> Status | None:
    """None: there are none, or they are no google.rpc.Status. A call never fails for its details."""
    if details is None:
        return None
    try:
        return Status.FromString(details)
    except DecodeError:
        return None


def agrees(status: GrpcStatus) -> bool:
    """Whether the details say the same as the plain status; else they are of something else, or forged."""
    parsed = decode_details(status.details)
    return parsed is not None and parsed.code == int(status.code) and parsed.message == status.message
