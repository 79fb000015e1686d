"""`mesh ca`: renew node certificates, and show what is in a certificate file and what is wrong with it.

It works on files and talks to no daemon. Nothing of a private key is ever printed.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from infermesh.cli.init import NODE_DAYS_MAX, check_nodes, describe_issued, known_nodes, node_document
from infermesh.core.model.names import NodeId
from infermesh.core.trust import Refusal, examine_leaf, examine_signer, node_of
from infermesh.core.trust.refusal import span
from infermesh.core.trust.svid import PARSE_ERRORS, key_type
from infermesh.node.authority import DAY_S, Authority, AuthorityError
from infermesh.node.identity import is_signed_by, utc
from infermesh.node.pem import PemFault, read_certificates

_RENEW_EXAMPLES = """\b
Examples:
  mesh ca renew --dir mesh --node gpu-a
  mesh ca renew --dir mesh --node gpu-a --node gpu-b --days 7 --json
  After a key was seen by others:
    mesh ca renew --dir mesh --node gpu-a --new-key
"""

_SHOW_EXAMPLES = """\b
Examples:
  mesh ca show /var/lib/infermesh/node.pem
  mesh ca show node.pem --ca ca.pem --json
"""


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """One certificate in words. Its fields are the JSON document's."""

    kind: str  # "node" or "ca".
    spiffe_id: str | None
    node: str | None
    subject: str
    issuer: str
    serial: str
    sha256: str
    key: str
    not_before: str
    not_after: str
    ends_in_s: int
    signed_by_ca: bool | None  # None: no --ca was given.
    problems: list[dict[str, str]]


@click.group(short_help="Renew and show certificates.")
def ca() -> None:
    """Renew node certificates, and show certificate files."""


@ca.command(short_help="A fresh certificate for nodes.", epilog=_RENEW_EXAMPLES)
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder of the trust domain, as made by `mesh init`.",
)
@click.option(
    "--node",
    "nodes",
    metavar="ID",
    multiple=True,
    required=True,
    callback=check_nodes,
    help="A node whose certificate to renew; may be given several times.",
)
@click.option(
    "--days", type=click.IntRange(1, NODE_DAYS_MAX), default=1, show_default=True, help="Life of the new certificates."
)
@click.option("--new-key", is_flag=True, help="Replace the node's key too. Copy both files to the node.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def renew(folder: Path, nodes: list[NodeId], days: int, *, new_key: bool, as_json: bool) -> None:
    """Write a fresh certificate for nodes that have one, for the same key unless --new-key is given."""
    now = time.time()
    try:
        authority = Authority.open(folder.absolute(), now_unix=now)
        known = known_nodes(authority.folder)
        for node in nodes:
            if node not in known:
                raise AuthorityError(
                    f"{folder} holds no certificate of node {node!r} (it knows: {', '.join(known) or 'none'}); "
                    f"a new node is made with `mesh init --dir {folder} --node {node}`"
                )
        issued = [authority.issue(node, now_unix=now, life_s=days * DAY_S, new_key=new_key) for node in nodes]
    except (AuthorityError, OSError) as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        document = {"trust_domain": authority.trust_domain, "nodes": [node_document(node) for node in issued]}
        click.echo(json.dumps(document, indent=2))
        return
    for node_issued in issued:
        click.echo(describe_issued(node_issued).strip())
    what = "node.pem and node.key" if new_key else "node.pem"
    click.echo(f"Next: copy {what} to the node's data_dir, and restart its meshd.")


@ca.command(short_help="What is in a certificate file.", epilog=_SHOW_EXAMPLES)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--ca", "ca_file", type=click.Path(path_type=Path), help="Also check that this CA signed it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def show(file: Path, ca_file: Path | None, *, as_json: bool) -> None:
    """Show SPIFFE id, validity, key and problems of each certificate in FILE.

    Exits 1 when a problem was found, so that a script can watch for it.
    """
    now = time.time()
    try:
        certificates = read_certificates(file, "file")
        authorities = None if ca_file is None else read_certificates(ca_file, "CA file")
    except PemFault as fault:
        raise click.ClickException(str(fault)) from fault
    found = [_examine(certificate, authorities, now) for certificate in certificates]
    if as_json:
        document = {"file": str(file), "certificates": [msgspec.to_builtins(each) for each in found]}
        click.echo(json.dumps(document, indent=2))
    else:
        click.echo("\n\n".join(_describe(each) for each in found))
    if any(each.problems for each in found):
        raise SystemExit(1)


def _examine(certificate: x509.Certificate, authorities: list[x509.Certificate] | None, now: float) -> Shown:
    signer = _is_signer(certificate)
    examined = (examine_signer if signer else examine_leaf)(certificate, now_unix=now)
    problems = [{"reason": str(refusal.reason), "detail": refusal.detail} for refusal in examined.refusals]
    node = None
    if examined.spiffe_id is not None and not signer:
        named = node_of(examined.spiffe_id)
        if isinstance(named, Refusal):
            problems.append({"reason": str(named.reason), "detail": named.detail})
        else:
            node = named
    signed = None if authorities is None else is_signed_by(certificate, authorities)
    if signed is False:
        problems.append({"reason": "signature", "detail": "is not signed by the CA that was given"})
    return Shown(
        kind="ca" if signer else "node",
        spiffe_id=None if examined.spiffe_id is None else str(examined.spiffe_id),
        node=node,
        subject=_name(certificate, "subject"),
        issuer=_name(certificate, "issuer"),
        serial=f"{certificate.serial_number:x}",
        sha256=certificate.fingerprint(hashes.SHA256()).hex(),
        key=_key(certificate),
        not_before=utc(examined.not_before),
        not_after=utc(examined.not_after),
        ends_in_s=int(examined.not_after - now),
        signed_by_ca=signed,
        problems=problems,
    )


def _describe(found: Shown) -> str:
    left_s = found.ends_in_s
    when = f"ends in {span(left_s)}" if left_s >= 0 else f"ended {span(-left_s)} ago"
    rows = [
        ("kind", "CA certificate" if found.kind == "ca" else "node certificate"),
        ("SPIFFE id", found.spiffe_id or "none"),
        ("valid", f"{found.not_before} to {found.not_after} ({when})"),
        ("key", found.key),
        ("subject", found.subject),
        ("issuer", found.issuer),
        ("serial", found.serial),
        ("SHA-256", found.sha256),
    ]
    if found.signed_by_ca is not None:
        rows.append(("signed by CA", "yes" if found.signed_by_ca else "no"))
    problems = [f"{problem['reason']}: {problem['detail']}" for problem in found.problems] or ["none"]
    rows += [("problems" if index == 0 else "", text) for index, text in enumerate(problems)]
    return "\n".join(f"{label:<14}{text}" for label, text in rows)


def _is_signer(certificate: x509.Certificate) -> bool:
    """By what it says of itself, so that the right set of rules is applied to it."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, *PARSE_ERRORS):
        return False


def _key(certificate: x509.Certificate) -> str:
    try:
        return key_type(certificate.public_key())
    except PARSE_ERRORS:
        return "cannot be read"


def _name(certificate: x509.Certificate, which: str) -> str:
    try:
        name = certificate.subject if which == "subject" else certificate.issuer
        return ascii(name.rfc4514_string())[1:-1]  # Its text is the file's, and a terminal obeys escapes.
    except PARSE_ERRORS:
        return "cannot be read"
