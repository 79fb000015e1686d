"""What every server of the bench answers: `Say` gives its message back, `Count` streams as many as it is told to.

Messages are google.protobuf.BytesValue: parsed and made by protobuf in every row. Values only.
"""

from __future__ import annotations

from typing import Final

SERVICE: Final = "infermesh.bench.Echo"
SAY: Final = f"/{SERVICE}/Say"
COUNT: Final = f"/{SERVICE}/Count"
STREAM_MESSAGES: Final = 200
_TOKEN_BYTES: Final = 192

# A BytesValue is its bytes in field 1; lengths here need two bytes of varint at most.
SAY_BYTES: Final = b"a call of a hundred bytes, as one that asks for a score is; " + b"." * 40
COUNT_BYTES: Final = b"%d" % STREAM_MESSAGES
TOKEN: Final = b"t" * _TOKEN_BYTES


def wrapped(value: bytes) -> bytes:
    """The gRPC message of a BytesValue."""
    assert len(value) < 128
    payload = b"\n" + bytes((len(value),)) + value
    return b"\0" + len(payload).to_bytes(4, "big") + payload
