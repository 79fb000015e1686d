"""Errors as OpenAI's clients read them: `{"error": {"message", "type", "code", "param"}}`."""

from __future__ import annotations

from typing import Final

import msgspec

JSON_TYPE: Final = (b"content-type", b"application/json")

_TYPES: Final = {
    400: "invalid_request_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}


class RequestRefused(Exception):
    """A request that is answered with an error here, without any attempt at a target."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        allow: str = "",
    ) -> None:
        """`allow`: the methods that a 405 must name (RFC 9110 section 15.5.6)."""
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.allow = allow


def error_type(status: int) -> str:
    return _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")


def error_value(status: int, code: str, message: str, param: str | None = None) -> dict[str, object]:
    return {"error": {"message": message, "type": error_type(status), "code": code, "param": param}}


def error_body(status: int, code: str, message: str, param: str | None = None) -> bytes:
    return msgspec.json.encode(error_value(status, code, message, param))
