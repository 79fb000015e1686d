"""Load this node's identity at the start of meshd, or say precisely why it cannot be used and what to do.

Everything that a peer would refuse later is refused here first, so that a node with a bad identity stops with
one clear message instead of running and being shunned. Not the check of peers: that is `infermesh.net.tls`.
The same function judges a renewed identity while the daemon runs; on IdentityError keep the old one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from infermesh.core.model.names import NodeId
from infermesh.core.trust import (
    Identity,
    IdentityError,
    Refusal,
    RefusalReason,
    examine_leaf,
    examine_signer,
    node_id_fault,
    node_in_domain,
    node_of,
    trust_domain_fault,
)
from infermesh.node.authority import CA_CERTIFICATE, NODE_CERTIFICATE, NODE_KEY
from infermesh.node.pem import PemFault, read_certificates, read_key

__all__ = ["Identity", "IdentityError", "TrustFiles", "is_signed_by", "load_identity", "load_identity_in", "utc"]


class TrustFiles(Protocol):
    """The section [trust] of the config, as far as identity needs it."""

    @property
    def domain(self) -> str: ...
    @property
    def ca_file(self) -> str | os.PathLike[str]: ...
    @property
    def certificate_file(self) -> str | os.PathLike[str]: ...
    @property
    def key_file(self) -> str | os.PathLike[str]: ...


def load_identity(trust: TrustFiles, node: NodeId, now_unix: float) -> Identity:
    """The checked identity of `node`. Raises IdentityError, whose message is complete for an operator."""
    ca_file, certificate_file, key_file = (
        Path(trust.ca_file),
        Path(trust.certificate_file),
        Path(trust.key_file),
    )
    if fault := trust_domain_fault(trust.domain):
        raise IdentityError(f"trust.domain {fault}: set [trust] domain to the name given to `mesh init`")
    if fault := node_id_fault(node):
        raise IdentityError(f"node.id {fault}: set [node] id to the name given to `mesh init --node`")
    try:
        authorities = read_certificates(ca_file, "CA file")
        chain = read_certificates(certificate_file, "certificate")
        key = read_key(key_file, "key")
    except PemFault as error:
        raise IdentityError(f"node {node}: {error}. {_remedy(node)}") from error
    for authority in authorities:
        _check_authority(authority, ca_file, trust.domain, now_unix)
    leaf = chain[0]
    not_before, not_after = _check_leaf(leaf, certificate_file, trust.domain, node, now_unix)
    if leaf.public_key() != key.public_key():
        raise IdentityError(
            f"node {node}: key {key_file} does not belong to certificate {certificate_file}: they come from "
            f"different runs of `mesh init`, or only one of the two was copied. {_remedy(node)}"
        )
    if not is_signed_by(leaf, authorities):
        raise IdentityError(
            f"node {node}: certificate {certificate_file} is not signed by the CA in {ca_file} (it names "
            f"issuer {leaf.issuer.rfc4514_string()!r}, the file holds "
            f"{', '.join(repr(ca.subject.rfc4514_string()) for ca in authorities)}): the files are of two "
            f"different trust domains or of a CA that was replaced. {_remedy(node)}"
        )
    return Identity(
        node=node,
        trust_domain=trust.domain,
        spiffe_id=f"spiffe://{trust.domain}/node/{node}",
        certificate_file=str(certificate_file),
        key_file=str(key_file),
        ca_file=str(ca_file),
        not_before=not_before,
        not_after=not_after,
    )


def load_identity_in(folder: Path, now_unix: float) -> Identity:
    """The identity whose three files lie in `folder`, whichever node's it is. For programs beside a node, which have no
    config that says who they should be. Raises IdentityError."""
    certificate_file = folder / NODE_CERTIFICATE
    try:
        leaf = read_certificates(certificate_file, "certificate")[0]
    except PemFault as error:
        text = f"{folder} holds no identity: {error}. It must hold {NODE_CERTIFICATE}, {NODE_KEY} and {CA_CERTIFICATE}"
        raise IdentityError(f"{text}, as `mesh init --node NAME` writes them") from error
    spiffe_id = examine_leaf(leaf, now_unix=now_unix).spiffe_id
    node = node_of(spiffe_id) if spiffe_id is not None else None
    if spiffe_id is None or node is None or isinstance(node, Refusal):
        why = node.detail if isinstance(node, Refusal) else "it names no SPIFFE id"
        raise IdentityError(f"{certificate_file} is not the certificate of a node: {why}")
    files = _Folder(spiffe_id.trust_domain, folder / CA_CERTIFICATE, certificate_file, folder / NODE_KEY)
    return load_identity(files, node, now_unix)


@dataclass(frozen=True, slots=True)
class _Folder:
    domain: str
    ca_file: Path
    certificate_file: Path
    key_file: Path


def is_signed_by(leaf: x509.Certificate, authorities: Sequence[x509.Certificate]) -> bool:
    """Whether one of these CAs, named as issuer, made this certificate's signature."""
    for authority in authorities:
        try:
            leaf.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            continue
        return True
    return False


def utc(unix: float) -> str:
    """A moment as people and JSON readers take it: 2026-11-24T13:05:00Z."""
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _check_authority(certificate: x509.Certificate, file: Path, domain: str, now_unix: float) -> None:
    examined = examine_signer(certificate, now_unix=now_unix)
    if examined.refusals:
        refusal = examined.refusals[0]
        match refusal.reason:
            case RefusalReason.NOT_A_SIGNER:
                remedy = "Put the ca.pem that `mesh init` wrote there, not a node's certificate."
            case RefusalReason.EXPIRED:
                remedy = (
                    "The whole trust domain has ended: make a new CA with `mesh init --force` and copy the "
                    "new files to every node."
                )
            case RefusalReason.NOT_YET_VALID:
                remedy = f"Check this machine's clock (it says {utc(now_unix)}), then start again."
            case _:
                remedy = "Make a new trust domain with `mesh init`."
        raise IdentityError(f"CA file {file}: {refusal.detail}. {remedy}")
    if examined.spiffe_id is not None and examined.spiffe_id.trust_domain != domain:
        raise IdentityError(
            f"CA file {file} is of trust domain {examined.spiffe_id.trust_domain!r}, the config says "
            f"{domain!r}: correct [trust] domain, or copy the ca.pem of {domain!r}."
        )


def _check_leaf(leaf: x509.Certificate, file: Path, domain: str, node: NodeId, now_unix: float) -> tuple[float, float]:
    """The bounds of its validity, once all rules hold."""
    examined = examine_leaf(leaf, now_unix=now_unix)
    if examined.refusals:
        refusal = examined.refusals[0]
        remedy = _remedy(node)
        if refusal.reason is RefusalReason.NOT_YET_VALID:
            remedy = f"Check this machine's clock (it says {utc(now_unix)}). {remedy}"
        others = len(examined.refusals) - 1
        more = f" ({others} more: see `mesh ca show {file}`)" if others else ""
        raise IdentityError(f"node {node}: certificate {file}: {refusal.detail}{more}. {remedy}")
    assert examined.spiffe_id is not None  # A leaf without a name always has a refusal.
    named = node_in_domain(examined.spiffe_id, domain)
    if isinstance(named, Refusal):
        key = "[trust] domain" if named.reason is RefusalReason.TRUST_DOMAIN else "[node] id"
        raise IdentityError(
            f"node {node}: certificate {file}: {named.detail}. Correct {key} in the config, or: {_remedy(node)}"
        )
    if named != node:
        raise IdentityError(
            f"node {node}: certificate {file} is for node {named!r} ({examined.spiffe_id}), the config says "
            f"{node!r}. Correct [node] id, or copy the files of {node!r}. {_remedy(node)}"
        )
    return examined.not_before, examined.not_after


def _remedy(node: NodeId) -> str:
    return (
        f"On the machine with the CA's folder run `mesh ca renew --dir DIR --node {node}` (or, for a node that "
        f"is new, `mesh init --dir DIR --node {node}`) and copy DIR/{node}/ to this node's data_dir."
    )
