"""Strict HTTP/1.1 heads: llhttp reads them, this file refuses what llhttp lets pass.

A head that two programs could read in two ways is how requests are smuggled (RFC 9112 section 11.2), so
everything ambiguous is refused rather than repaired: bare LF, folded lines, repeated or odd lengths, a length
beside a transfer coding. The input must be one whole head, ending with its empty line; bodies never come here.
"""

from __future__ import annotations

import re
from typing import Final

import httptools
import msgspec

from wire.errors import RemoteProtocolError
from wire.http1.fields import Field, connection_options
from wire.limits import (
    HTTP1_CONTENT_LENGTH_DIGITS_MAX,
    HTTP1_HEAD_BYTES_MAX,
    HTTP1_HEADERS_MAX,
    HTTP1_TARGET_BYTES_MAX,
)

CHUNKED: Final = -1
"""`framing` of a message in chunked transfer coding; zero and above is a length in bytes."""
UNTIL_CLOSE: Final = -2
"""`framing` of a response whose body ends where the connection ends (RFC 9112 section 6.3, rule 8)."""


class AmbiguousFraming(RemoteProtocolError):
    """Two readers could find two ends of this message: the stuff of request smuggling."""


class RequestHead(msgspec.Struct, frozen=True):
    method: bytes
    target: bytes
    minor: int  # 0 or 1: the y of HTTP/1.y.
    fields: list[Field]  # Names in lower case, in the order of arrival.
    # The same fields as they came, line by line: a relay passes them on without writing anew. Empty for a head that
    # came over HTTP/2, which has none.
    lines: list[bytes]
    framing: int  # Bytes of body, or CHUNKED.
    keep_alive: bool
    host: bytes
    expect: bytes

    def value(self, name: bytes) -> bytes | None:
        """The first value of a field, or None."""
        for key, value in self.fields:
            if key == name:
                return value
        return None

    @property
    def path(self) -> bytes:
        return self.target.partition(b"?")[0]


class ResponseHead(msgspec.Struct, frozen=True):
    status: int
    reason: bytes
    minor: int
    fields: list[Field]
    lines: list[bytes]
    framing: int  # Bytes of body, CHUNKED or UNTIL_CLOSE.
    keep_alive: bool

    def value(self, name: bytes) -> bytes | None:
        for key, value in self.fields:
            if key == name:
                return value
        return None


def head_end(data: bytes, start: int = 0) -> int:
    """The index just past the empty line that ends a head, or -1 while it has not come.

    Raises RemoteProtocolError as soon as it is clear that the head can only be refused: a line that ends
    without CR, or more bytes than a head may have.
    """
    end = data.find(b"\r\n\r\n", start)
    if end >= 0:
        if end + 4 - start > HTTP1_HEAD_BYTES_MAX:
            raise RemoteProtocolError(f"head of more than {HTTP1_HEAD_BYTES_MAX} bytes", status_hint=431)
        return end + 4
    if len(data) - start > HTTP1_HEAD_BYTES_MAX:
        raise RemoteProtocolError(f"head of more than {HTTP1_HEAD_BYTES_MAX} bytes", status_hint=431)
    line = data.find(b"\n", start)
    if line >= 0 and (line == start or data[line - 1] != 0x0D):
        raise RemoteProtocolError("line of the head ends without CR")
    return -1


# What decides framing and the life of the connection.
_SPECIAL: Final = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"expect"})
# RFC 9112 section 4; llhttp lets control characters pass, and the reason goes on to the client.
_REASON: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_MINORS: Final = {b"HTTP/1.1": 1, b"HTTP/1.0": 0}


class _Sink:
    """What llhttp calls back into. One per head: llhttp keeps state that must not cross messages.

    Only fields: the first line, once llhttp has found it well-formed, is quicker read off the bytes.
    """

    __slots__ = ("fields", "special")

    def __init__(self) -> None:
        self.fields: list[Field] = []
        self.special: list[Field] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        field = (name.lower(), value)
        self.fields.append(field)
        if field[0] in _SPECIAL:
            self.special.append((field[0], value.strip(b" \t")))  # llhttp leaves what is behind a value.


def parse_request_head(data: bytes) -> RequestHead:
    """One request head, `data` ending with its empty line. Raises RemoteProtocolError with the status to answer."""
    lines = _lines(data)
    sink = _Sink()
    try:
        httptools.HttpRequestParser(sink).feed_data(data)
    except httptools.HttpParserUpgrade:
        pass  # An upgrade is an offer (RFC 9110 section 7.8); the fields say so and we need not take it.
    except httptools.HttpParserCallbackError:
        raise
    except httptools.HttpParserError as error:
        raise _refusal_of(error, "request", 400) from error
    start = lines[0].split(b" ")
    if len(start) != 3:  # llhttp takes a run of spaces for one, and a line without version for HTTP/0.9.
        raise RemoteProtocolError("request line is not 'method target version' with single spaces")
    method, target, version = start
    minor = _MINORS.get(version, -1)
    if minor < 0:
        raise RemoteProtocolError(f"{version.decode()} on an HTTP/1 connection", status_hint=505)
    if len(target) > HTTP1_TARGET_BYTES_MAX:
        raise RemoteProtocolError(f"request target of more than {HTTP1_TARGET_BYTES_MAX} bytes", status_hint=414)
    field_lines = _field_lines(lines, sink.fields)
    special = _read_special(sink.special)
    hosts = special.hosts
    if len(hosts) != 1 and (minor or hosts):
        raise RemoteProtocolError(f"{len(hosts)} Host fields, where one is required")
    host = hosts[0] if hosts else b""
    return RequestHead(
        method,
        target if target[:1] == b"/" else _checked_target(target, host, method),
        minor,
        sink.fields,
        field_lines,
        _request_framing(special, minor),
        _keeps_alive(special.connection, minor),
        host,
        special.expect,
    )


def parse_response_head(data: bytes, *, request_method: bytes) -> ResponseHead:
    """One response head, `data` ending with its empty line; `request_method` decides whether a body follows."""
    lines = _lines(data)
    sink = _Sink()
    try:
        httptools.HttpResponseParser(sink).feed_data(data)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserCallbackError:
        raise
    except httptools.HttpParserError as error:
        raise _refusal_of(error, "response", 502) from error
    version, _, rest = lines[0].partition(b" ")
    minor = _MINORS.get(version, -1)
    code, _, reason = rest.partition(b" ")
    if minor < 0 or not (len(code) == 3 and code.isdigit()) or (reason != b"OK" and not _REASON.fullmatch(reason)):
        raise RemoteProtocolError(f"not the status line of HTTP/1: {lines[0][:80]!r}", status_hint=502)
    status = int(code)
    if not 100 <= status <= 599:
        raise RemoteProtocolError(f"response status {status}", status_hint=502)
    field_lines = _field_lines(lines, sink.fields)
    special = _read_special(sink.special)
    framing = _response_framing(special, status, minor, request_method)
    keep = _keeps_alive(special.connection, minor) and framing != UNTIL_CLOSE
    return ResponseHead(status, reason, minor, sink.fields, field_lines, framing, keep)


def _refusal_of(error: httptools.HttpParserError, what: str, status_hint: int) -> RemoteProtocolError:
    text = str(error)
    framing = "Content-Length" in text or "Transfer-Encoding" in text
    kind = AmbiguousFraming if framing else RemoteProtocolError
    return kind(f"malformed {what} head: {text}", status_hint)


class _Special:
    """The fields that decide framing and connection life, gathered in one pass."""

    __slots__ = ("codings", "connection", "expect", "hosts", "lengths")

    def __init__(self) -> None:
        self.hosts: list[bytes] = []
        self.lengths: list[bytes] = []
        self.codings: list[bytes] = []
        self.connection: list[bytes] = []
        self.expect = b""


def _lines(data: bytes) -> list[bytes]:
    """The head's lines, its first one first and two empty ones last. Only CRLF may end a line."""
    lines = data.split(b"\r\n")
    ends = len(lines) - 1
    if data.count(b"\n") != ends or data.count(b"\r") != ends:
        raise RemoteProtocolError("bare CR or LF in a head")
    if ends > HTTP1_HEADERS_MAX + 2:
        raise RemoteProtocolError(f"more than {HTTP1_HEADERS_MAX} header fields", status_hint=431)
    return lines


def _field_lines(lines: list[bytes], fields: list[Field]) -> list[bytes]:
    """The lines of the fields, one each: a folded line is a second line of one field (RFC 9112 section 5.2)."""
    found = lines[1:-2]
    if len(found) != len(fields):
        raise RemoteProtocolError("folded header line (RFC 9112 section 5.2)")
    return found


def _read_special(fields: list[Field]) -> _Special:
    special = _Special()
    for name, value in fields:
        match name:
            case b"host":
                special.hosts.append(value)
            case b"content-length":
                special.lengths.append(value)
            case b"transfer-encoding":
                special.codings.append(value)
            case b"connection":
                special.connection.append(value)
            case b"expect":  # Several are a list; together they are no expectation that we know.
                special.expect = special.expect + b", " + value if special.expect else value
            case _:
                pass
    return special


def _checked_target(target: bytes, host: bytes, method: bytes) -> bytes:
    """A target that is not a path: an absolute form that agrees with Host becomes one (RFC 9112 section 3.2.2)."""
    if method == b"OPTIONS" and target == b"*":
        return target
    if target[:7].lower() == b"http://" or target[:8].lower() == b"https://":
        authority, slash, rest = target.partition(b"//")[2].partition(b"/")
        if authority.lower() != host.lower():
            raise RemoteProtocolError("request target and Host name different authorities")
        return slash + rest if slash else b"/"
    if method == b"CONNECT":
        raise RemoteProtocolError("CONNECT is not offered here", status_hint=405)
    raise RemoteProtocolError("request target is neither a path nor a URL")


def _request_framing(special: _Special, minor: int) -> int:
    if special.codings:
        if special.lengths:
            raise AmbiguousFraming("Content-Length beside Transfer-Encoding")
        if minor == 0:
            raise AmbiguousFraming("Transfer-Encoding in HTTP/1.0")
        if len(special.codings) != 1 or special.codings[0].strip().lower() != b"chunked":
            raise RemoteProtocolError("transfer coding other than chunked", status_hint=501)
        return CHUNKED
    return _length(special.lengths) if special.lengths else 0


def _response_framing(special: _Special, status: int, minor: int, request_method: bytes) -> int:
    """RFC 9112 section 6.3, in its order."""
    if special.codings and special.lengths:
        raise AmbiguousFraming("response with Content-Length beside Transfer-Encoding", status_hint=502)
    length = _length(special.lengths) if special.lengths else UNTIL_CLOSE
    if request_method == b"HEAD" or status < 200 or status in (204, 304):
        return 0
    if special.codings:
        if minor == 0 or len(special.codings) != 1 or special.codings[0].strip().lower() != b"chunked":
            raise RemoteProtocolError("response in a transfer coding other than chunked", status_hint=502)
        return CHUNKED
    return length


def _length(values: list[bytes]) -> int:
    if len(values) != 1:
        raise AmbiguousFraming("more than one Content-Length")
    value = values[0]
    # bytes.isdigit is true for ASCII digits alone, unlike str.isdigit.
    if not value.isdigit() or len(value) > HTTP1_CONTENT_LENGTH_DIGITS_MAX:
        raise AmbiguousFraming("Content-Length is not a plain decimal number")
    return int(value)


def _keeps_alive(connection: list[bytes], minor: int) -> bool:
    if not connection:
        return minor == 1
    options = connection_options(connection)
    if b"close" in options:
        return False
    return minor == 1 or b"keep-alive" in options
