"""google.rpc.Status beside the plain status."""

from __future__ import annotations

from google.protobuf.wrappers_pb2 import StringValue

from wire.grpc.details import agrees, decode_details, encode_details
from wire.grpc.status import Code, GrpcStatus


def test_details_are_packed_with_their_type_and_come_back() -> None:
    raw = encode_details(Code.NOT_FOUND, "no such model", [StringValue(value="llama")])
    status = decode_details(raw)
    assert status is not None
    assert (status.code, status.message) == (5, "no such model")
    found = StringValue()
    assert status.details[0].Unpack(found)
    assert found.value == "llama"


def test_what_is_no_status_is_none() -> None:
    assert decode_details(None) is None
    assert decode_details(b"\xff\xff\xff") is None


def test_details_agree_with_the_plain_status_or_are_of_another_one() -> None:
    raw = encode_details(Code.NOT_FOUND, "gone", [])
    assert agrees(GrpcStatus(Code.NOT_FOUND, "gone", raw))
    assert not agrees(GrpcStatus(Code.INTERNAL, "gone", raw))
    assert not agrees(GrpcStatus(Code.NOT_FOUND, "other", raw))
    assert not agrees(GrpcStatus(Code.NOT_FOUND, "gone", b"\xff"))
    assert not agrees(GrpcStatus(Code.NOT_FOUND, "gone"))
