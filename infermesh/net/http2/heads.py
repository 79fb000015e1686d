"""HTTP/2 field lists as the heads that the rest of the code knows, which are HTTP/1.1's (RFC 9113 section 8.3).

Pseudo fields become the head's first line; `:authority` becomes `host`; what is left keeps its order. Not here: any
check, the machine has made them all.
"""

from __future__ import annotations

from typing import Final

from infermesh.net.http1.server import REASONS
from wire.http1 import CHUNKED, Field, RequestHead, ResponseHead

_BODILESS: Final = frozenset({204, 304})


def request_head(fields: list[Field], *, end_stream: bool) -> tuple[RequestHead, bytes]:
    """The head, and the `:protocol` of an extended CONNECT (RFC 8441), or nothing."""
    pseudo, rest = _divided(fields)
    known = dict(rest)
    authority = pseudo.get(b":authority", b"")
    if b"host" in known:
        authority = known[b"host"]
    elif authority:
        rest.insert(0, (b"host", authority))
    length = known.get(b"content-length")
    framing = CHUNKED if length is None else int(length)
    head = RequestHead(
        pseudo[b":method"],
        pseudo.get(b":path", authority),  # A plain CONNECT has no path.
        1,
        rest,
        [],
        0 if end_stream else framing,
        True,
        authority,
        known.get(b"expect", b""),
    )
    return head, pseudo.get(b":protocol", b"")


def response_head(fields: list[Field], *, method: bytes, end_stream: bool) -> ResponseHead:
    pseudo, rest = _divided(fields)
    status = int(pseudo[b":status"])
    if end_stream or method == b"HEAD" or status in _BODILESS or status < 200:
        framing = 0
    else:
        length = dict(rest).get(b"content-length")
        framing = CHUNKED if length is None else int(length)
    return ResponseHead(status, REASONS.get(status, b""), 1, rest, [], framing, True)


def _divided(fields: list[Field]) -> tuple[dict[bytes, bytes], list[Field]]:
    pseudo: dict[bytes, bytes] = {}
    for name, value in fields:
        if name[0] != 0x3A:  # A colon: pseudo fields come first.
            break
        pseudo[name] = value
    return pseudo, fields[len(pseudo) :]
