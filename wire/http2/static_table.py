"""What both ends of HPACK know from the start: the static table (RFC 7541 appendix A) and how fields are counted.

Not here: anything that changes. The dynamic tables are in wire/http2/hpack.py and wire/http2/hpack_encoder.py.
"""

from __future__ import annotations

from typing import Final

STATIC_FIELDS: Final[tuple[tuple[bytes, bytes], ...]] = (
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
)
"""Index 1 first: an index on the wire counts from one."""

FIRST_DYNAMIC: Final = 62
"""The index of the newest field of a dynamic table."""
assert len(STATIC_FIELDS) + 1 == FIRST_DYNAMIC

FIELD_OVERHEAD_BYTES: Final = 32
"""What a field counts beyond its octets (RFC 7541 section 4.1)."""

TABLE_BYTES_DEFAULT: Final = 4_096
"""The table that both ends start from, whatever SETTINGS say later (RFC 9113 section 6.5.2)."""


class NeverIndexed(tuple[bytes, bytes]):
    """A field that came as "never indexed", and must go on as such (RFC 7541 section 6.2.3). Equal to a plain one."""

    __slots__ = ()
