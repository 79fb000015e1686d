"""Who this node is, and who a peer is: checked values. Holding one means that the checks have been made.

`Identity` names files and never holds the key itself, so no log, repr or traceback of it can leak one.
"""

from __future__ import annotations

import math

import msgspec

from infermesh.core.model.names import NodeId
from infermesh.core.trust.refusal import Refusal, RefusalReason, shown
from infermesh.core.trust.spiffe import SpiffeId, node_of
from infermesh.core.trust.svid import examine_leaf, parse_certificate


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """This node's own identity. Made by `infermesh.node.identity.load_identity` only."""

    node: NodeId
    trust_domain: str
    spiffe_id: str
    certificate_file: str
    key_file: str
    ca_file: str
    not_before: float  # Unix seconds.
    not_after: float


class PeerIdentity(msgspec.Struct, frozen=True):
    """A peer whose certificate was accepted. Its connections must end by `not_after` (unix seconds)."""

    node: NodeId
    trust_domain: str
    not_after: float = math.inf


class IdentityError(Exception):
    """Our own identity cannot be used: a local fault. The message says what failed and what to do."""


def identify_peer(
    der: bytes | None, *, trust_domain: str, expected_node: NodeId | None, now_unix: float
) -> PeerIdentity | Refusal:
    """Who the holder of this certificate is, or why it is refused.

    Duty of the caller: OpenSSL has verified the chain and the possession of the key on this very connection,
    and nothing of the connection's bytes is looked at before this has answered.
    """
    if not der:
        return Refusal(RefusalReason.NO_CERTIFICATE, "the peer sent no certificate")
    certificate = parse_certificate(der)
    if isinstance(certificate, Refusal):
        return certificate
    examined = examine_leaf(certificate, now_unix=now_unix)
    if examined.refusals:
        return examined.refusals[0]
    assert examined.spiffe_id is not None  # A leaf without a name always has a refusal.
    node = node_in_domain(examined.spiffe_id, trust_domain)
    if isinstance(node, Refusal):
        return node
    if expected_node is not None and node != expected_node:
        detail = f"is node {shown(node)}, expected node {shown(expected_node)}"
        return Refusal(RefusalReason.NODE, detail)
    return PeerIdentity(node, trust_domain, examined.not_after)


def node_in_domain(spiffe_id: SpiffeId, trust_domain: str) -> NodeId | Refusal:
    if spiffe_id.trust_domain != trust_domain:
        detail = f"is of trust domain {shown(spiffe_id.trust_domain)}, ours is {shown(trust_domain)}"
        return Refusal(RefusalReason.TRUST_DOMAIN, detail)
    return node_of(spiffe_id)


def refuse_report(peer: PeerIdentity, subject: NodeId) -> Refusal | None:
    """May `peer` report state about `subject`? Only about itself: else one stolen key could empty a fleet."""
    if peer.node == subject:
        return None
    detail = f"node {shown(peer.node)} reported state of node {shown(subject)}; a node may report only its own"
    return Refusal(RefusalReason.FORBIDDEN, detail)
