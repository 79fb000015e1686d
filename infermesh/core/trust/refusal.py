"""Why a certificate, an identity or an act of a peer was refused. Values only; the reason is a metric label.

`detail` is written for a log line: text that came from a peer is in it only through `shown`, so that no peer
can forge a line, hide bytes or flood a log.
"""

from __future__ import annotations

import enum

import msgspec

_SHOWN_CHARS_MAX = 120


class RefusalReason(enum.StrEnum):
    """A closed set, so that the label set of the metric that counts refusals stays bounded."""

    NO_CERTIFICATE = "no_certificate"
    MALFORMED = "malformed"  # Not one DER certificate that a strict parser accepts.
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    SAN = "san"  # Not exactly one URI name, or not critical where it must be.
    SPIFFE_ID = "spiffe_id"  # The one URI name is not a SPIFFE id of a workload.
    TRUST_DOMAIN = "trust_domain"
    NODE = "node"  # A valid SPIFFE id that is not the node expected, or not a node.
    SIGNER_AS_LEAF = "signer_as_leaf"  # A CA, or a key that may sign certificates, used to authenticate.
    NOT_A_SIGNER = "not_a_signer"  # A certificate that was offered as a CA and is none.
    KEY_USAGE = "key_usage"
    EXTENDED_KEY_USAGE = "extended_key_usage"
    WEAK_KEY = "weak_key"
    CRITICAL_EXTENSION = "critical_extension"
    PROTOCOL = "protocol"  # TLS version or ALPN.
    FORBIDDEN = "forbidden"  # Known and authentic, but may not do this.


class Refusal(msgspec.Struct, frozen=True):
    reason: RefusalReason
    detail: str


def shown(text: str) -> str:
    """Text from a peer, safe to print: quoted, ASCII, escaped, and cut to a stated length."""
    if len(text) <= _SHOWN_CHARS_MAX:
        return ascii(text)
    return f"{text[:_SHOWN_CHARS_MAX]!a}... ({len(text)} characters)"


def span(seconds: float) -> str:
    """A length of time for people: the largest unit that still says something."""
    for unit, length_s in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length_s:
            return f"{seconds / length_s:.1f} {unit}"
    return f"{seconds:.0f} s"
