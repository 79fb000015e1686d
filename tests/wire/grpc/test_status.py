"""Codes and how other layers' failures map onto them."""

from __future__ import annotations

import pytest

from wire.grpc.status import Code, GrpcStatus, RpcError, from_http, from_reset, http_of, parse_code, retryable


def test_every_code_is_read_from_its_own_number() -> None:
    assert [parse_code(b"%d" % code) for code in Code] == list(Code)


@pytest.mark.parametrize(
    "value", [b"", b"00", b"05", b"+5", b"-1", b"17", b"5 ", b" 5", b"0x5", b"99999999999", b"\xd9\xa5"]
)
def test_what_is_no_plain_known_number_is_unknown(value: bytes) -> None:
    assert parse_code(value) is Code.UNKNOWN


@pytest.mark.parametrize(
    ("http", "code"),
    [
        (400, 13),
        (401, 16),
        (403, 7),
        (404, 12),
        (429, 14),
        (502, 14),
        (503, 14),
        (504, 14),
        (200, 2),
        (302, 2),
        (500, 2),
    ],
)
def test_an_http_status_without_grpc_status_maps_as_the_protocol_says(http: int, code: int) -> None:
    assert from_http(http) == code


def test_each_code_has_an_http_status_that_says_the_same() -> None:
    assert http_of(Code.OK) == 200
    assert {http_of(code) // 100 for code in Code if code is not Code.OK} == {4, 5}


@pytest.mark.parametrize(
    ("reset", "code"),
    [
        (0x0, Code.INTERNAL),
        (0x1, Code.INTERNAL),
        (0x2, Code.INTERNAL),
        (0x3, Code.INTERNAL),
        (0x4, Code.INTERNAL),
        (0x6, Code.INTERNAL),
        (0x7, Code.UNAVAILABLE),
        (0x8, Code.CANCELLED),
        (0x9, Code.INTERNAL),
        (0xA, Code.INTERNAL),
        (0xB, Code.RESOURCE_EXHAUSTED),
        (0xC, Code.PERMISSION_DENIED),
        (0xFFFF, Code.INTERNAL),
    ],
)
def test_a_reset_maps_as_the_protocol_says(reset: int, code: Code) -> None:
    assert from_reset(reset) is code


def test_a_cancel_after_our_own_deadline_is_the_deadline() -> None:
    assert from_reset(0x8, deadline_passed=True) is Code.DEADLINE_EXCEEDED
    assert from_reset(0x2, deadline_passed=True) is Code.INTERNAL


def test_only_unavailable_may_succeed_elsewhere_as_it_is() -> None:
    assert [code for code in Code if retryable(code)] == [Code.UNAVAILABLE]


def test_an_error_says_its_code_and_its_message() -> None:
    error = RpcError(Code.NOT_FOUND, "no such model", b"details")
    assert str(error) == "NOT_FOUND: no such model"
    assert error.status == GrpcStatus(Code.NOT_FOUND, "no such model", b"details")
    assert str(GrpcStatus(Code.OK)) == "OK"
