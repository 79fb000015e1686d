"""Heads and trailers of a call: what is read of a peer's, and what ours look like."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.errors import LocalProtocolError
from wire.grpc.call import (
    CallEnd,
    CallHead,
    NotGrpc,
    ResponseStart,
    is_grpc,
    is_protobuf,
    read_request,
    read_response,
    read_trailers,
    read_trailers_only,
    request_fields,
    response_fields,
    trailer_fields,
    trailers_only_fields,
)
from wire.grpc.details import encode_details
from wire.grpc.encoding import Encoding
from wire.grpc.metadata import Metadata
from wire.grpc.status import Code, GrpcStatus
from wire.http1 import Field
from wire.limits import GRPC_METADATA_BYTES_MAX

TYPE: Field = (b"content-type", b"application/grpc")
PATH = b"/package.Service/Method"


def asked(*fields: Field, method: bytes = b"POST", path: bytes = PATH) -> CallHead | GrpcStatus | NotGrpc:
    return read_request(method, path, [TYPE, (b"te", b"trailers"), *fields])


def refused(*fields: Field, path: bytes = PATH) -> GrpcStatus:
    answer = asked(*fields, path=path)
    assert isinstance(answer, GrpcStatus)
    return answer


def test_a_request_is_read_whole() -> None:
    head = asked(
        (b"grpc-timeout", b"250m"),
        (b"grpc-encoding", b"gzip"),
        (b"grpc-accept-encoding", b"gzip, br"),
        (b"x-tenant", b"a"),
    )
    assert head == CallHead(
        PATH, b"", Encoding.GZIP, frozenset({Encoding.IDENTITY, Encoding.GZIP}), 0.25, Metadata([("x-tenant", "a")])
    )


def test_what_is_left_out_has_its_default() -> None:
    head = asked()
    assert isinstance(head, CallHead)
    assert head.timeout_s == math.inf
    assert head.encoding is Encoding.IDENTITY
    assert is_protobuf(head)


@pytest.mark.parametrize(
    "content_type",
    [
        b"application/grpc",
        b"application/grpc+proto",
        b"application/grpc+json",
        b"application/grpc;charset=utf-8",
        b"application/grpc+proto; x=y",
        b"Application/gRPC",
    ],
)
def test_a_content_type_of_grpc_is_known(content_type: bytes) -> None:
    assert is_grpc(content_type)
    assert isinstance(read_request(b"POST", PATH, [(b"content-type", content_type)]), CallHead)


@pytest.mark.parametrize(
    "content_type",
    [
        b"application/grpcfoo",
        b"application/grpc-web",
        b"application/grpc-web+proto",
        b"application/json",
        b"",
        b"application/grpc+",
        b"text/application/grpc",
    ],
)
def test_another_content_type_is_answered_in_http_with_what_was_seen(content_type: bytes) -> None:
    assert not is_grpc(content_type)
    answer = read_request(b"POST", PATH, [(b"content-type", content_type)])
    assert isinstance(answer, NotGrpc)
    assert answer.status == 415
    assert repr(content_type.decode()) in answer.message


def test_no_content_type_at_all_is_415() -> None:
    answer = read_request(b"POST", PATH, [])
    assert isinstance(answer, NotGrpc)
    assert answer.status == 415
    assert not is_grpc(None)


@pytest.mark.parametrize("method", [b"GET", b"PUT", b"post", b"OPTIONS"])
def test_another_method_is_405_and_says_which_is_taken(method: bytes) -> None:
    answer = asked(method=method)
    assert isinstance(answer, NotGrpc)
    assert (answer.status, answer.fields) == (405, ((b"allow", b"POST"),))


@pytest.mark.parametrize(
    "path", [b"", b"/", b"/Service", b"/Service/", b"//Method", b"/a/b/c", b"a/b", b"/a/b?c=d", b"*"]
)
def test_another_shape_of_path_is_unimplemented(path: bytes) -> None:
    assert refused(path=path).code is Code.UNIMPLEMENTED


@pytest.mark.parametrize("value", [b"1", b"123456789S", b"-1S", b"1s", b""])
def test_a_bad_timeout_is_an_error_not_no_deadline(value: bytes) -> None:
    answer = refused((b"grpc-timeout", value))
    assert answer.code is Code.INTERNAL
    assert "grpc-timeout" in answer.message


def test_an_unknown_encoding_is_unimplemented_and_says_which_are_known() -> None:
    answer = refused((b"grpc-encoding", b"snappy"))
    assert answer.code is Code.UNIMPLEMENTED
    assert "'snappy'" in answer.message
    assert "gzip" in answer.message


@pytest.mark.parametrize("name", [b"grpc-timeout", b"grpc-encoding", b"content-type"])
def test_what_is_given_twice_and_not_the_same_is_refused(name: bytes) -> None:
    values = {b"grpc-timeout": (b"1S", b"2S"), b"grpc-encoding": (b"gzip", b"identity")}
    one, two = values.get(name, (b"application/grpc", b"application/grpc+proto"))
    answer = read_request(b"POST", PATH, [(b"content-type", b"application/grpc"), (name, one), (name, two)])
    assert isinstance(answer, GrpcStatus)
    assert name.decode() in answer.message


def test_metadata_at_its_limit_is_taken_and_one_byte_more_is_refused() -> None:
    size = GRPC_METADATA_BYTES_MAX - 32 - len("x-a")
    assert isinstance(asked((b"x-a", b"v" * size)), CallHead)
    answer = refused((b"x-a", b"v" * (size + 1)))
    assert answer.code is Code.RESOURCE_EXHAUSTED
    assert f"{GRPC_METADATA_BYTES_MAX + 1} bytes" in answer.message


# --- responses ---


def test_a_response_head_is_read() -> None:
    start = read_response(200, [TYPE, (b"grpc-encoding", b"gzip"), (b"x-a", b"1")])
    assert isinstance(start, ResponseStart)
    assert (start.encoding, start.metadata) == (Encoding.GZIP, Metadata([("x-a", "1")]))


@pytest.mark.parametrize(("status", "code"), [(404, 12), (503, 14), (401, 16), (500, 2)])
def test_an_http_error_has_the_code_of_its_status_and_says_what_came(status: int, code: int) -> None:
    answer = read_response(status, [(b"content-type", b"text/html")])
    assert isinstance(answer, GrpcStatus)
    assert answer.code == code
    assert f"HTTP status {status}" in answer.message
    assert "'text/html'" in answer.message


def test_a_response_of_another_type_is_unknown() -> None:
    answer = read_response(200, [(b"content-type", b"application/json")])
    assert isinstance(answer, GrpcStatus)
    assert answer.code is Code.UNKNOWN


def test_a_response_in_an_unknown_encoding_is_internal() -> None:
    answer = read_response(200, [TYPE, (b"grpc-encoding", b"br")])
    assert isinstance(answer, GrpcStatus)
    assert answer.code is Code.INTERNAL


def test_a_response_with_too_much_metadata_is_refused() -> None:
    answer = read_response(200, [TYPE, (b"x-a", b"v" * GRPC_METADATA_BYTES_MAX)])
    assert isinstance(answer, GrpcStatus)
    assert answer.code is Code.RESOURCE_EXHAUSTED


def test_trailers_give_status_message_details_and_metadata() -> None:
    details = encode_details(Code.ABORTED, "früh", [])
    status = GrpcStatus(Code.ABORTED, "früh", details)
    assert read_trailers(trailer_fields(status, Metadata([("x-a", "1")]))) == CallEnd(status, Metadata([("x-a", "1")]))


@pytest.mark.parametrize("value", [b"17", b"-1", b"00", b"", b"zero"])
def test_a_status_out_of_range_is_unknown_and_shown(value: bytes) -> None:
    status = read_trailers([(b"grpc-status", value)]).status
    assert status.code is Code.UNKNOWN
    assert repr(value) in status.message


def test_trailers_without_a_status_are_unknown() -> None:
    status = read_trailers([(b"x-a", b"1")]).status
    assert status == GrpcStatus(Code.UNKNOWN, "the response ended without grpc-status")


def test_two_statuses_that_differ_are_unknown() -> None:
    assert read_trailers([(b"grpc-status", b"0"), (b"grpc-status", b"5")]).status.code is Code.UNKNOWN
    assert read_trailers([(b"grpc-status", b"5"), (b"grpc-status", b"5")]).status.code is Code.NOT_FOUND


def test_details_that_say_something_else_are_dropped() -> None:
    details = encode_details(Code.OK, "", [])
    fields = trailer_fields(GrpcStatus(Code.NOT_FOUND, "gone", details))
    assert read_trailers(fields).status == GrpcStatus(Code.NOT_FOUND, "gone")


def test_details_that_are_no_base64_are_dropped_and_the_status_kept() -> None:
    fields = [(b"grpc-status", b"5"), (b"grpc-status-details-bin", b"!!")]
    assert read_trailers(fields).status == GrpcStatus(Code.NOT_FOUND)


def test_a_head_that_ends_the_stream_is_read_as_trailers_or_by_its_http_status() -> None:
    whole = trailers_only_fields(GrpcStatus(Code.UNIMPLEMENTED, "no"), Metadata([("x-a", "1")]))
    assert read_trailers_only(200, whole) == CallEnd(GrpcStatus(Code.UNIMPLEMENTED, "no"), Metadata([("x-a", "1")]))
    # Also where an intermediary, or grpc-go, says it by the HTTP status as well.
    assert read_trailers_only(415, [(b"grpc-status", b"3")]).status.code is Code.INVALID_ARGUMENT
    assert read_trailers_only(503, [(b"content-type", b"text/plain")]).status.code is Code.UNAVAILABLE
    assert read_trailers_only(200, [TYPE]).status.code is Code.UNKNOWN


# --- ours ---


def test_our_request_begins_with_pseudo_fields_and_ends_with_the_applications() -> None:
    fields = request_fields(
        PATH,
        b"gpu-a:7443",
        timeout_s=1.5,
        encoding=Encoding.GZIP,
        metadata=Metadata([("x-a", "1"), ("x-b-bin", b"\0")]),
    )
    names = [name for name, _ in fields]
    assert names[:4] == [b":method", b":scheme", b":path", b":authority"]
    assert names[-2:] == [b"x-a", b"x-b-bin"]
    assert dict(fields)[b"te"] == b"trailers"
    assert dict(fields)[b"grpc-timeout"] == b"1500000u"
    head = read_request(b"POST", PATH, [field for field in fields if not field[0].startswith(b":")])
    assert isinstance(head, CallHead)
    assert (head.timeout_s, head.encoding) == (1.5, Encoding.GZIP)


def test_a_request_with_nothing_left_of_its_deadline_is_not_made() -> None:
    with pytest.raises(LocalProtocolError):
        request_fields(PATH, b"a", timeout_s=0.0)


def test_our_response_has_its_status_in_the_trailers_even_when_it_is_ok() -> None:
    assert response_fields()[0] == (b":status", b"200")
    assert (b"grpc-encoding", b"gzip") in response_fields(encoding=Encoding.GZIP)
    assert trailer_fields(GrpcStatus(Code.OK)) == [(b"grpc-status", b"0")]


@given(st.lists(st.tuples(st.binary(max_size=30), st.binary(max_size=30)), max_size=8), st.integers(100, 599))
def test_no_fields_make_a_reader_fail(fields: list[Field], status: int) -> None:
    read_request(b"POST", PATH, [TYPE, *fields])
    read_response(status, [TYPE, *fields])
    read_trailers(fields)
    read_trailers_only(status, fields)
