"""Custom metadata on the wire: binary values, odd values, sizes. The echo returns what begins with `x-`."""

from __future__ import annotations

import pytest

from tests.conformance.grpc.calling import raw_grpc
from wire.grpc import Code
from wire.limits import GRPC_METADATA_BYTES_MAX


@pytest.mark.parametrize("value", [b"AAE", b"AAE="])
async def test_binary_metadata_is_read_padded_or_not_and_sent_unpadded(value: bytes) -> None:
    async with raw_grpc() as raw:
        answer = await raw.call(1, "Say", b"hi", (b"x-id-bin", value))
    assert answer.values(b"x-id-bin") == [b"AAE", b"AAE"], "in head and trailers"


@pytest.mark.parametrize("value", [b"AAE,AQ==", b"AAE=, AQ", b"AAE,AQ"])
async def test_joined_binary_metadata_is_split_before_it_is_decoded(value: bytes) -> None:
    async with raw_grpc() as raw:
        answer = await raw.call(1, "Say", b"hi", (b"x-id-bin", value))
    assert [v for name, v in answer.raw.fields if name == b"x-id-bin"] == [b"AAE", b"AQ"]


@pytest.mark.parametrize("value", [b"!!!", b"A", b"AAE==", b"A\x01AA"[:1]])
async def test_binary_metadata_that_cannot_be_read_costs_itself_and_not_the_call(value: bytes) -> None:
    async with raw_grpc() as raw:
        answer = await raw.call(1, "Say", b"hi", (b"x-bad-bin", value), (b"x-good", b"1"))
    assert answer.code == Code.OK
    assert answer.values(b"x-bad-bin") == []
    assert answer.values(b"x-good") == [b"1", b"1"]


@pytest.mark.parametrize("field", [(b"x-high", b"\xfc"), (b"x-tab", b"a\tb"), (b"x!odd", b"1")])
async def test_metadata_that_could_not_be_echoed_is_dropped_and_the_call_served(field: tuple[bytes, bytes]) -> None:
    async with raw_grpc() as raw:
        answer = await raw.call(1, "Say", b"hi", field)
    assert answer.code == Code.OK
    assert answer.values(field[0]) == []


async def test_a_name_that_repeats_keeps_its_values_in_order() -> None:
    async with raw_grpc() as raw:
        answer = await raw.call(1, "Say", b"hi", (b"x-a", b"1"), (b"x-b", b"2"), (b"x-a", b"3, 4"))
    assert [v for name, v in answer.raw.fields if name == b"x-a"] == [b"1", b"3, 4"]


async def test_metadata_at_its_limit_is_taken_and_above_it_refused() -> None:
    size = GRPC_METADATA_BYTES_MAX - 32 - len(b"y")
    async with raw_grpc() as raw:
        assert (await raw.call(1, "Say", b"hi", (b"y", b"v" * size))).code == Code.OK
        answer = await raw.call(3, "Say", b"hi", (b"y", b"v" * (size + 1)))
        assert answer.code == Code.RESOURCE_EXHAUSTED
        assert str(GRPC_METADATA_BYTES_MAX) in answer.text


async def test_the_applications_metadata_comes_in_the_head_and_in_the_trailers() -> None:
    async with raw_grpc() as raw:
        answer = await raw.call(1, "Say", b"hi")
    assert (b"x-path", b"/infermesh.testing.Echo/Say") in answer.raw.fields
    assert (b"x-trailing", b"yes") in answer.raw.trailers
