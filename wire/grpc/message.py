"""`grpc-message`: UTF-8, then percent-encoded (grpc/grpc doc/PROTOCOL-HTTP2.md, "Status-Message").

Everything but printable ASCII is encoded, and the percent sign itself. Decoding never fails: a status with a garbled
message is worth more than an error about it.
"""

from __future__ import annotations

import re
from typing import Final

# A message is for a person; trailers that do not fit the peer's header list would lose the status with it.
_MESSAGE_BYTES_MAX: Final = 2_048
_PLAIN: Final = re.compile(rb"[ -$&-~]*")
_ENCODED: Final = [bytes((byte,)) if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte for byte in range(256)]
_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})")


def encode_message_text(text: str) -> bytes:
    """For the wire, cut at 2,048 bytes before encoding (never inside a character)."""
    raw = text.encode("utf-8", "replace")
    if len(raw) > _MESSAGE_BYTES_MAX:
        raw = raw[:_MESSAGE_BYTES_MAX].decode("utf-8", "ignore").encode()
    if _PLAIN.fullmatch(raw):
        # A space at either end is a field value's own padding to some parsers: keep it by its number.
        return raw if raw == raw.strip(b" ") else _keep_ends(raw)
    return _keep_ends(b"".join([_ENCODED[byte] for byte in raw]))


def decode_message_text(value: bytes) -> str:
    """From the wire. What is no escape stays as it is; what is no UTF-8 becomes U+FFFD."""
    if b"%" in value:
        value = _ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), value)
    return value.decode("utf-8", "replace")


def _keep_ends(raw: bytes) -> bytes:
    body = raw.strip(b" ")
    before = len(raw) - len(raw.lstrip(b" "))
    after = len(raw) - before - len(body)
    return b"%20" * before + body + b"%20" * (after if body else 0)
