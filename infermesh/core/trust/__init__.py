"""Trust decisions: SPIFFE ids, the rules of X.509-SVIDs, and what an authenticated peer may do.

Pure: certificates come in as bytes, the time as an argument; refusals are returned as values, never raised.
It does not verify signatures of chains and opens no file: `infermesh.net.tls` and `infermesh.node` do.

Duties of a caller that admits a peer, in this order; swapped, an unauthenticated peer is believed:
1. OpenSSL: TLS 1.3, CERT_REQUIRED, chain to our CA.
2. ALPN and version as negotiated are what was required.
3. `identify_peer` on the certificate of this connection; on a `Refusal` close without reading a byte.
4. For each act of the peer the rule of that act (`refuse_report`).
"""

from __future__ import annotations

from infermesh.core.trust.identity import (
    Identity,
    IdentityError,
    PeerIdentity,
    identify_peer,
    node_in_domain,
    refuse_report,
)
from infermesh.core.trust.refusal import Refusal, RefusalReason
from infermesh.core.trust.spiffe import (
    SpiffeId,
    node_id_fault,
    node_of,
    node_spiffe_id,
    parse_spiffe_id,
    trust_domain_fault,
)
from infermesh.core.trust.svid import Examination, examine_leaf, examine_signer, parse_certificate

__all__ = [
    "Examination",
    "Identity",
    "IdentityError",
    "PeerIdentity",
    "Refusal",
    "RefusalReason",
    "SpiffeId",
    "examine_leaf",
    "examine_signer",
    "identify_peer",
    "node_id_fault",
    "node_in_domain",
    "node_of",
    "node_spiffe_id",
    "parse_certificate",
    "parse_spiffe_id",
    "refuse_report",
    "trust_domain_fault",
]
