"""TLS as a pair of byte functions, for sockets that the reactor reads and writes.

An `ssl.SSLObject` over memory BIOs: ciphertext in, plaintext out, and the reverse; the caller moves bytes.
`trio.SSLStream` costs about 100 us per message; this costs under 3. Raises `ssl.SSLError` for what the peer
got wrong; the caller closes the connection and counts it.
"""

from __future__ import annotations

import contextlib
import math
import ssl
from collections.abc import Callable
from typing import Final

_READ_BYTES: Final = 65_536


class TlsSession:
    __slots__ = ("_incoming", "_outgoing", "closed_by_peer", "object", "ready", "retire_at")

    def __init__(self, wrap: Callable[[ssl.MemoryBIO, ssl.MemoryBIO], ssl.SSLObject]) -> None:
        """`wrap` makes the object of one side over the incoming and outgoing BIO (`TlsEpoch.accept`, `.connect`)."""
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.object = wrap(self._incoming, self._outgoing)
        self.ready = False  # The handshake is complete.
        self.closed_by_peer = False  # close_notify came.
        self.retire_at = math.inf  # Monotonic seconds: no new exchange from then on; the peer's certificate has ended.

    def handshake(self, data: bytes = b"") -> bytes:
        """Take the peer's bytes, return ours to send; `ready` tells when it is done."""
        if data:
            self._incoming.write(data)
        try:
            self.object.do_handshake()
            self.ready = True
        except ssl.SSLWantReadError:
            pass
        return self._outgoing.read() if self._outgoing.pending else b""

    def last_words(self) -> bytes:
        """What OpenSSL still wants said after it raised: the alert that tells the peer why."""
        return self._outgoing.read() if self._outgoing.pending else b""

    def decrypt(self, data: bytes) -> bytes:
        """The plaintext that these bytes complete, possibly none. Sets `closed_by_peer` at its end."""
        if data:
            self._incoming.write(data)
        read = self.object.read
        parts: list[bytes] = []
        try:
            while True:
                part = read(_READ_BYTES)
                if not part:
                    self.closed_by_peer = True
                    break
                parts.append(part)
                # Asking once more would answer by raising, at the price of five reads.
                if not self._incoming.pending and not self.object.pending():
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.closed_by_peer = True
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def encrypt(self, data: bytes) -> bytes:
        self.object.write(data)
        return self._outgoing.read()

    def owed(self) -> bytes:
        """Bytes that reading made OpenSSL want to send (key updates)."""
        return self._outgoing.read() if self._outgoing.pending else b""

    def close_notify(self) -> bytes:
        """Our goodbye; the peer's is not waited for."""
        # It raises for the peer's goodbye, or a handshake that never ended: what we say is all the same.
        with contextlib.suppress(ssl.SSLError):
            self.object.unwrap()
        return self._outgoing.read() if self._outgoing.pending else b""
