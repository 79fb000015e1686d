"""Whether a header list is a message (RFC 9113 section 8): pseudo-header fields, characters, fields of a hop, lengths.

Strict, as this is where requests are smuggled into HTTP/1.1 behind us: no control character in any value, no space
in `:path`, Host and `:authority` must agree, one content-length of digits. What is refused is Malformed, which costs
the stream. Cookie crumbs are joined on the way (section 8.2.3), as HTTP/1.1 and gRPC handlers expect one field.

Not here: sizes (HPACK bounds lists), and what a field means to a proxy. Characters are checked on all names and all
values at once: a head has a dozen fields, and a dozen calls would cost more than the rest of the stream.
"""

from __future__ import annotations

import re
from typing import Final

from wire.http1.fields import Field
from wire.http2.static_table import NeverIndexed
from wire.limits import HTTP1_CONTENT_LENGTH_DIGITS_MAX, HTTP2_PASSED_FIELD_BYTES_MAX, HTTP2_PASSED_FIELDS_MAX


class Malformed(Exception):
    """Says what is wrong with a header list."""


_TOKEN: Final = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
_TOKEN_ANY_CASE: Final = _TOKEN + b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_VALUE: Final = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
_PATH: Final = bytes(byte for byte in range(0x21, 0x7F) if byte != 0x23)  # A fragment is never sent.
_AUTHORITY: Final = bytes(byte for byte in range(0x21, 0x7F) if byte not in b'/?#@\\<>"^`{|}')
_SCHEME: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*")

# How a name is treated. 0 and absent: an ordinary field.
_PSEUDO: Final = 1
_FORBIDDEN: Final = 2
_TE: Final = 3
_LENGTH: Final = 4
_HOST: Final = 5
_COOKIE: Final = 6

_COMMON: Final = {
    b"connection": _FORBIDDEN,
    b"keep-alive": _FORBIDDEN,
    b"proxy-connection": _FORBIDDEN,
    b"transfer-encoding": _FORBIDDEN,
    b"upgrade": _FORBIDDEN,
    b"te": _TE,
}
_IN_REQUEST: Final = {
    **_COMMON,
    **dict.fromkeys((b":method", b":scheme", b":authority", b":path", b":protocol"), _PSEUDO),
    b"content-length": _LENGTH,
    b"host": _HOST,
    b"cookie": _COOKIE,
}
_IN_RESPONSE: Final = {**_COMMON, b":status": _PSEUDO, b"content-length": _LENGTH}
# Ordinary fields that were found to be well-formed, for most come again with the next request. A memo of a pure
# function, so it may be everybody's; it keeps no secret.
_PASSED: Final[set[Field]] = set()
# Counted in a list, context decides, or secret.
_NEVER_PASSED: Final = frozenset(
    {b"content-length", b"host", b"cookie", b"set-cookie", b"authorization", b"proxy-authorization", b"x-api-key"}
)
_DEFAULT_PORTS: Final = {b"http": b":80", b"https": b":443"}


def check_request(fields: list[Field], *, extended_connect: bool) -> int:
    """The stated length of the content, or -1. Cookie crumbs in `fields` are joined in place."""
    pseudo, length, hosts, cookies = _read(fields, _IN_REQUEST)
    method = pseudo.get(b":method")
    if not method or method.translate(None, _TOKEN_ANY_CASE):
        raise Malformed("no :method, or one that is not a token")
    scheme = pseudo.get(b":scheme")
    authority = pseudo.get(b":authority")
    if authority is not None and (not authority or authority.translate(None, _AUTHORITY)):
        raise Malformed(f":authority is {authority[:80]!r}")
    if len(hosts) > 1:
        raise Malformed("more than one host field")
    if method == b"CONNECT":
        _check_connect(pseudo, extended_connect=extended_connect)
    elif b":protocol" in pseudo:
        raise Malformed(":protocol in a request that is not CONNECT (RFC 8441 section 4)")
    if method != b"CONNECT" or b":protocol" in pseudo:
        _check_target(pseudo, method)
    if hosts:
        _check_host(hosts[0], authority, scheme)
    elif authority is None:
        raise Malformed("neither :authority nor host")
    if cookies > 1:
        _join_cookies(fields)
    return length


def check_response(fields: list[Field]) -> tuple[int, int]:
    """(status, the stated length of the content or -1)."""
    pseudo, length, _, _ = _read(fields, _IN_RESPONSE)
    status = pseudo.get(b":status", b"")
    if len(status) != 3 or not status.isdigit() or status[0] == 0x30:
        raise Malformed(f":status is {status[:80]!r}")
    if status == b"101":
        raise Malformed("status 101, which HTTP/2 does not have (RFC 9113 section 8.6)")
    return int(status), length


def check_trailers(fields: list[Field]) -> None:
    _read(fields, _COMMON)  # No pseudo-header field is known there, and an unknown one is refused (section 8.1).


def _read(fields: list[Field], special: dict[bytes, int]) -> tuple[dict[bytes, bytes], int, list[bytes], int]:
    """(pseudo-header fields, content-length or -1, host values, number of cookie fields)."""
    pseudo: dict[bytes, bytes] = {}
    unknown: list[Field] = []
    length = -1
    cookies = 0
    hosts: list[bytes] = []
    regular = False
    for field in fields:
        if field in _PASSED:
            regular = True
            continue
        name, value = field
        kind = special.get(name, 0)
        if kind == _PSEUDO:
            if regular:
                raise Malformed(f"{name.decode()} behind a regular field")
            if name in pseudo:
                raise Malformed(f"{name.decode()} twice")
            pseudo[name] = value
            continue
        regular = True
        unknown.append(field)
        if not kind:
            continue
        if kind == _COOKIE:
            cookies += 1
        elif kind == _LENGTH:
            if length >= 0:
                raise Malformed("more than one content-length")
            if not value.isdigit() or len(value) > HTTP1_CONTENT_LENGTH_DIGITS_MAX:
                raise Malformed(f"content-length is {value[:80]!r}")
            length = int(value)
        elif kind == _HOST:
            hosts.append(value)
        elif kind != _TE:
            raise Malformed(f"{name.decode()}, a field of one connection (RFC 9113 section 8.2.2)")
        elif value.lower() != b"trailers":
            raise Malformed("te other than trailers (RFC 9113 section 8.2.2)")
    if unknown:
        _check_characters(unknown)
    return pseudo, length, hosts, cookies


def _check_characters(fields: list[Field]) -> None:
    """Regular fields. Those that pass, and are small and ordinary, need not be looked at again."""
    # Each between line feeds, which may themselves not occur: what remains after all that is allowed is taken
    # away must be these line feeds and no others.
    ends = b"\n" * (len(fields) + 1)
    names = b"\n%b\n" % b"\n".join([name for name, _ in fields])
    if names.translate(None, _TOKEN) != ends or b"\n\n" in names:
        raise Malformed(f"field name {_first_bad([name for name, _ in fields], _TOKEN)!r}")
    values = b"\n%b\n" % b"\n".join([value for _, value in fields])
    if values.translate(None, _VALUE) != ends:
        raise Malformed("control character in a field value")
    if b" \n" in values or b"\n " in values or b"\t\n" in values or b"\n\t" in values:
        raise Malformed("white space around a field value")
    if len(_PASSED) > HTTP2_PASSED_FIELDS_MAX - len(fields):
        _PASSED.clear()
    for field in fields:
        name, value = field
        if name not in _NEVER_PASSED and len(name) + len(value) <= HTTP2_PASSED_FIELD_BYTES_MAX:
            _PASSED.add(field)


def _first_bad(names: list[bytes], allowed: bytes) -> bytes:
    return next((name[:80] for name in names if not name or name.translate(None, allowed)), b"")


def _check_connect(pseudo: dict[bytes, bytes], *, extended_connect: bool) -> None:
    if b":authority" not in pseudo:
        raise Malformed("CONNECT without :authority")
    if b":protocol" in pseudo:
        if not extended_connect:
            raise Malformed(":protocol, which was not offered (RFC 8441 section 3)")
        protocol = pseudo[b":protocol"]
        if not protocol or protocol.translate(None, _TOKEN_ANY_CASE):
            raise Malformed(":protocol is not a token")
    elif b":scheme" in pseudo or b":path" in pseudo:
        raise Malformed("CONNECT with :scheme or :path (RFC 9113 section 8.5)")


def _check_target(pseudo: dict[bytes, bytes], method: bytes) -> None:
    scheme = pseudo.get(b":scheme")
    if scheme is None or not _SCHEME.fullmatch(scheme):
        raise Malformed("no :scheme, or one that is none")
    path = pseudo.get(b":path")
    if not path:
        raise Malformed("no :path, or an empty one")
    if path[0] != 0x2F and not (path == b"*" and method == b"OPTIONS"):
        raise Malformed(":path does not begin with a slash")
    if path.translate(None, _PATH):
        raise Malformed(f":path with a character that no path has: {path[:80]!r}")


def _check_host(host: bytes, authority: bytes | None, scheme: bytes | None) -> None:
    if not host or host.translate(None, _AUTHORITY):
        raise Malformed(f"host is {host[:80]!r}")
    if authority is None or host == authority:
        return
    port = _DEFAULT_PORTS.get((scheme or b"").lower(), b"")
    if host.lower().removesuffix(port) != authority.lower().removesuffix(port):
        raise Malformed("host and :authority differ (RFC 9113 section 8.3.1)")


def _join_cookies(fields: list[Field]) -> None:
    crumbs = [field for field in fields if field[0] == b"cookie"]
    joined: Field = (b"cookie", b"; ".join([value for _, value in crumbs]))
    if any(isinstance(crumb, NeverIndexed) for crumb in crumbs):
        joined = NeverIndexed(joined)
    first = next(place for place, field in enumerate(fields) if field[0] == b"cookie")
    fields[:] = [
        joined if place == first else field
        for place, field in enumerate(fields)
        if place == first or field[0] != b"cookie"
    ]
