"""Status of a call: the seventeen codes, how other layers' failures map onto them, and the error that carries one.

grpc/grpc: doc/statuscodes.md, doc/http-grpc-status-mapping.md, doc/PROTOCOL-HTTP2.md "Errors". Not here: how a
status is written into trailers (`call`) and its details (`details`).
"""

from __future__ import annotations

import enum
from typing import Final

import msgspec

from wire.grpc.metadata import NO_METADATA, Metadata


class Code(enum.IntEnum):
    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class GrpcStatus(msgspec.Struct, frozen=True):
    """How a call ended. `details`: a serialised google.rpc.Status with the same code and message, or nothing."""

    code: Code
    message: str = ""
    details: bytes | None = None

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}" if self.message else self.code.name


OK_STATUS: Final = GrpcStatus(Code.OK)


class RpcError(Exception):
    """A call ended with another status than OK, on either side. `metadata` came, or goes, with the trailers.

    `unprocessed`: it is certain that no handler saw the call, so it may be sent again whatever it does.
    """

    def __init__(
        self,
        code: Code,
        message: str = "",
        details: bytes | None = None,
        metadata: Metadata = NO_METADATA,
        *,
        unprocessed: bool = False,
    ) -> None:
        super().__init__(f"{code.name}: {message}" if message else code.name)
        assert code is not Code.OK, "OK is not an error"
        self.code = code
        self.message = message
        self.details = details
        self.metadata = metadata
        self.unprocessed = unprocessed

    @property
    def status(self) -> GrpcStatus:
        return GrpcStatus(self.code, self.message, self.details)


_BY_TEXT: Final = {b"%d" % code: code for code in Code}


def parse_code(value: bytes) -> Code:
    """`grpc-status` as it came. No leading zeros, no sign, no unknown number: all of those are UNKNOWN."""
    return _BY_TEXT.get(value, Code.UNKNOWN)


_FROM_HTTP: Final = {
    400: Code.INTERNAL,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
    429: Code.UNAVAILABLE,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.UNAVAILABLE,
}


def from_http(status: int) -> Code:
    """For a response that has no `grpc-status`: something on the way answered that speaks no gRPC."""
    return _FROM_HTTP.get(status, Code.UNKNOWN)


_TO_HTTP: Final = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}


def http_of(code: Code) -> int:
    """The HTTP status that says the same, for metrics, outliers and gateways (google.rpc.Code's own table)."""
    return _TO_HTTP[code]


# HTTP/2 error codes by number (RFC 9113 section 7); those not listed are INTERNAL as well.
_CANCEL: Final = 0x8
_FROM_RESET: Final = {
    0x7: Code.UNAVAILABLE,  # REFUSED_STREAM: not processed.
    _CANCEL: Code.CANCELLED,
    0xB: Code.RESOURCE_EXHAUSTED,  # ENHANCE_YOUR_CALM
    0xC: Code.PERMISSION_DENIED,  # INADEQUATE_SECURITY
}


def from_reset(error_code: int, *, deadline_passed: bool = False) -> Code:
    """What a peer's RST_STREAM means. A CANCEL after our own deadline is that deadline, told by the other side."""
    if deadline_passed and error_code == _CANCEL:
        return Code.DEADLINE_EXCEEDED
    return _FROM_RESET.get(error_code, Code.INTERNAL)


def retryable(code: Code) -> bool:
    """Whether the same call may succeed elsewhere. Whether it may be sent twice is for the caller to know."""
    return code is Code.UNAVAILABLE
