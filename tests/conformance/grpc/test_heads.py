"""Heads of calls: method, path, content type, and what is answered to a call that cannot be served."""

from __future__ import annotations

import pytest

from tests.conformance.grpc.calling import raw_grpc
from tests.conformance.http2.frames import Code as H2Code
from tests.conformance.http2.frames import headers
from wire.grpc import Code

TYPE = (b"content-type", b"application/grpc")


async def test_a_unary_call_is_answered_by_head_message_and_trailers() -> None:
    async with raw_grpc() as raw:
        answer = await raw.call(1, "Say", b"hi")
    assert (answer.code, answer.messages) == (Code.OK, [b"hi"])
    assert not answer.trailers_only
    assert answer.raw.trailers[0] == (b"grpc-status", b"0")


@pytest.mark.parametrize("suffix", [b"+proto", b";charset=utf-8", b"+proto;x=y"])
async def test_a_content_type_with_subtype_or_parameters_is_grpc(suffix: bytes) -> None:
    async with raw_grpc() as raw:
        await raw.send(
            raw.head(1, "Say", (b"content-type", b"application/grpc" + suffix), (b"te", b"trailers"), bare=True),
            raw.message(1, b"hi", end=True),
        )
        assert (await raw.answer(1)).code == Code.OK


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [(b"content-type", b"application/json")],
        [(b"content-type", b"application/grpcfoo")],
        [(b"content-type", b"application/grpc-web+proto")],
        [(b"content-type", b"")],
    ],
)
async def test_what_is_no_grpc_gets_http_415_so_that_it_cannot_be_taken_for_success(
    fields: list[tuple[bytes, bytes]],
) -> None:
    async with raw_grpc() as raw:
        await raw.send(raw.head(1, "Say", *fields, bare=True), raw.message(1, b"hi", end=True))
        response = await raw.response(1)
        assert response.status == 415
        assert b"application/grpc" in response.body
        assert (await raw.call(3, "Say", b"hi")).code == Code.OK


@pytest.mark.parametrize("method", [b"GET", b"PUT", b"DELETE"])
async def test_another_method_gets_405_with_the_one_that_is_taken(method: bytes) -> None:
    async with raw_grpc() as raw:
        fields = [(name, method if name == b":method" else value) for name, value in raw.call_fields("Say", TYPE)]
        await raw.send(headers(1, raw.block(fields), end=True))
        response = await raw.response(1)
    assert response.status == 405
    assert (b"allow", b"POST") in response.fields


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/infermesh.testing.Echo/Nope", "has no method 'Nope'"),
        ("/infermesh.testing.Nope/Say", "no service 'infermesh.testing.Nope'"),
        ("/infermesh.testing.echo/Say", "no service"),
        ("/infermesh.testing.Echo/say", "has no method 'say'"),
        ("/infermesh.testing.Echo/Say/", "is not /package.Service/Method"),
        ("/infermesh.testing.Echo", "is not /package.Service/Method"),
        ("/", "is not /package.Service/Method"),
        ("//Say", "is not /package.Service/Method"),
        ("/infermesh.testing.Echo/Say?x=y", "is not /package.Service/Method"),
    ],
)
async def test_a_path_that_nobody_serves_is_unimplemented_in_one_block(path: str, says: str) -> None:
    async with raw_grpc() as raw:
        answer = await raw.call(1, path, b"hi")
        assert answer.code == Code.UNIMPLEMENTED
        assert says in answer.text
        assert answer.trailers_only
        assert (await raw.call(3, "Say", b"hi")).code == Code.OK


async def test_an_unknown_method_is_answered_before_its_messages_come_and_the_rest_is_refused() -> None:
    async with raw_grpc() as raw:
        await raw.send(raw.head(1, "Nope"))
        assert (await raw.answer(1)).code == Code.UNIMPLEMENTED
        await raw.stream_error(1, H2Code.NO_ERROR)


async def test_a_call_without_te_is_served() -> None:
    """Some proxies eat the field; grpc-java and grpc-go serve on as well."""
    async with raw_grpc() as raw:
        await raw.send(raw.head(1, "Say", TYPE, bare=True), raw.message(1, b"hi", end=True))
        assert (await raw.answer(1)).code == Code.OK


async def test_te_with_anything_but_trailers_is_malformed_http2() -> None:
    async with raw_grpc() as raw:
        await raw.send(raw.head(1, "Say", TYPE, (b"te", b"gzip"), bare=True))
        await raw.any_error(1, H2Code.PROTOCOL_ERROR)


async def test_another_codec_than_protobuf_is_unimplemented() -> None:
    async with raw_grpc() as raw:
        await raw.send(
            raw.head(1, "Say", (b"content-type", b"application/grpc+json"), (b"te", b"trailers"), bare=True),
            raw.message(1, b"{}", end=True),
        )
        answer = await raw.answer(1)
    assert answer.code == Code.UNIMPLEMENTED
    assert "+json" in answer.text


async def test_an_upper_case_field_name_is_malformed_http2() -> None:
    async with raw_grpc() as raw:
        await raw.send(raw.head(1, "Say", (b"X-Upper", b"v")))
        await raw.any_error(1, H2Code.PROTOCOL_ERROR)


async def test_an_unknown_reserved_field_is_ignored() -> None:
    async with raw_grpc() as raw:
        assert (await raw.call(1, "Say", b"hi", (b"grpc-new-thing", b"1"))).code == Code.OK


@pytest.mark.parametrize("name", [b"grpc-timeout", b"grpc-encoding"])
async def test_a_field_of_the_protocol_given_twice_with_two_values_is_refused(name: bytes) -> None:
    values = (b"1S", b"2S") if name == b"grpc-timeout" else (b"gzip", b"identity")
    async with raw_grpc() as raw:
        answer = await raw.call(1, "Say", b"hi", *((name, value) for value in values))
    assert answer.code == Code.INTERNAL
    assert name.decode() in answer.text
