"""`Upgrade: h2c`: a request over HTTP/1.1 whose answer comes over HTTP/2 (RFC 7540 section 3.2).

RFC 9113 keeps it out of the standard; clients of before still use it (curl --http2, Java's). Only in plain text: over
TLS it is ALPN that decides. A client that gets it wrong is answered over HTTP/1.1, as a server may.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

from wire.http1 import RequestHead
from wire.http1.fields import connection_options

SWITCHING: Final = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: h2c\r\n\r\n"
_NEEDED: Final = frozenset({b"upgrade", b"http2-settings"})
_SETTING_BYTES: Final = 6
_SETTINGS_BYTES_MAX: Final = 32 * _SETTING_BYTES


def h2c_settings(head: RequestHead) -> bytes | None:
    """The payload of the SETTINGS frame that the client would have sent; None: it asks for no upgrade that counts."""
    upgrades: list[bytes] = []
    options: list[bytes] = []
    settings: list[bytes] = []
    for name, value in head.fields:
        if name == b"upgrade":
            upgrades += [token.strip().lower() for token in value.split(b",")]
        elif name == b"connection":
            options.append(value)
        elif name == b"http2-settings":
            settings.append(value)
    if b"h2c" not in upgrades or len(settings) != 1 or not connection_options(options) >= _NEEDED:
        return None
    return _decoded(settings[0])


def _decoded(value: bytes) -> bytes | None:
    try:
        payload = base64.b64decode(value + b"=" * (-len(value) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return payload if len(payload) % _SETTING_BYTES == 0 and len(payload) <= _SETTINGS_BYTES_MAX else None
