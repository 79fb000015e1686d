"""Why a TLS handshake failed, in the few words that it is counted under (`infermesh_tls_handshakes_failed_total`)."""

from __future__ import annotations

import re
from typing import Final

_REFUSED: Final = re.compile(r"peer refused \((\w+)\)")
# What OpenSSL, the connection or its deadline say, first match first.
_SIGNS: Final = (
    ("certificate has expired", "expired"),
    ("certificate is not yet valid", "not_yet_valid"),
    ("certificate verify failed", "wrong_ca"),
    ("did not return a certificate", "no_certificate"),
    ("deadline", "timed_out"),
    ("in time", "timed_out"),
    ("closed by the", "closed"),
    ("reset by", "closed"),
)


def handshake_fault(detail: str) -> str:
    """The reason in the message of a failed handshake: a `RefusalReason` of ours, or what the words mean."""
    refused = _REFUSED.search(detail)
    if refused is not None:
        return refused[1]
    lowered = detail.lower()
    return next((reason for sign, reason in _SIGNS if sign in lowered), "protocol")
