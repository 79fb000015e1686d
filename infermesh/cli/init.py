"""`mesh init`: make a trust domain and the certificates of its nodes, or add and renew nodes of one that exists.

It works on one folder and talks to no daemon. The rules of what may be replaced are those of
`infermesh.node.authority`; here they are options, words and JSON.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from infermesh.core.model.names import NodeId
from infermesh.core.trust import node_id_fault, trust_domain_fault
from infermesh.node.authority import (
    CA_CERTIFICATE,
    CA_KEY,
    CA_LIFE_S,
    DAY_S,
    NODE_CERTIFICATE,
    NODE_KEY,
    Authority,
    AuthorityError,
    IssuedNode,
)
from infermesh.node.identity import utc
from infermesh.node.pem import CERTIFICATE_MODE, write_file

NODE_CONFIG = "node.toml"
NODE_DAYS_MAX = 825  # A certificate that lives longer than a browser would take is no short-lived identity.
CA_DAYS_MAX = 36_500

_EXAMPLES = """\b
Examples:
  A mesh of three nodes, with a starter config for each:
    mesh init --dir mesh --domain example.mesh --node edge --node gpu-a --node gpu-b --config
  Later, one node more (or: a fresh certificate for it):
    mesh init --dir mesh --node gpu-c --config
  For a script:
    mesh init --dir mesh --node gpu-c --json
"""


class _Run(msgspec.Struct, frozen=True, kw_only=True):
    """What one run did, before it is put into words or JSON."""

    authority: Authority
    created: bool
    issued: tuple[IssuedNode, ...]
    configs: dict[NodeId, bool]  # True: written now; False: one was there and was kept.
    warnings: tuple[str, ...]


def _check_domain(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    if value is not None and (fault := trust_domain_fault(value)):
        raise click.BadParameter(f"trust domain {fault}")
    return value


def check_nodes(_context: click.Context, _option: click.Parameter, value: tuple[str, ...]) -> list[NodeId]:
    """The callback of every `--node`: valid ids, each once, in the order given."""
    for name in value:
        if fault := node_id_fault(name):
            raise click.BadParameter(f"node id {fault}")
        if name in (CA_CERTIFICATE, CA_KEY):
            raise click.BadParameter(f"{name!r} is the name of a file of the CA's folder; take another")
    return [NodeId(name) for name in dict.fromkeys(value)]


@click.command(short_help="Make a trust domain, its CA and node certificates.", epilog=_EXAMPLES)
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder of the trust domain; made if missing. Holds the CA's key: keep it safe.",
)
@click.option(
    "--domain",
    metavar="NAME",
    callback=_check_domain,
    help="Name of the trust domain, such as example.mesh. Needed the first time.",
)
@click.option(
    "--node",
    "nodes",
    metavar="ID",
    multiple=True,
    required=True,
    callback=check_nodes,
    help="A node to make or renew a certificate for; may be given several times.",
)
@click.option(
    "--days", type=click.IntRange(1, NODE_DAYS_MAX), default=1, show_default=True, help="Life of the node certificates."
)
@click.option(
    "--ca-days",
    type=click.IntRange(1, CA_DAYS_MAX),
    default=int(CA_LIFE_S / DAY_S),
    show_default=True,
    help="Life of a new CA.",
)
@click.option(
    "--config",
    "with_config",
    is_flag=True,
    help=f"Also write a starter {NODE_CONFIG} per node; one that exists is kept.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Replace an existing CA and the keys of the named nodes. All other nodes stop being trusted.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def init(
    folder: Path,
    domain: str | None,
    nodes: list[NodeId],
    days: int,
    ca_days: int,
    *,
    with_config: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Make a trust domain: a CA and a certificate for each node, in one folder.

    Run again with the same folder it uses the CA that is there: new nodes get a certificate, known nodes get a
    fresh one for the key they have. A CA or a key that exists is never replaced without --force.
    """
    now = time.time()
    try:
        authority, created = _open_or_create(folder.absolute(), domain, now, ca_days * DAY_S, force=force)
        issued = tuple(
            authority.issue(node, now_unix=now, life_s=days * DAY_S, new_key=created and force) for node in nodes
        )
        configs = {node: _write_config(authority, node) for node in nodes} if with_config else {}
    except (AuthorityError, OSError) as error:
        raise click.ClickException(str(error)) from error
    run = _Run(
        authority=authority,
        created=created,
        issued=issued,
        configs=configs,
        warnings=tuple(_warnings(authority, issued, created=created)),
    )
    if as_json:
        click.echo(json.dumps(_document(run), indent=2))
    else:
        _explain(run)


def _open_or_create(
    folder: Path, domain: str | None, now: float, ca_life_s: float, *, force: bool
) -> tuple[Authority, bool]:
    if Authority.exists(folder) and not force:
        authority = Authority.open(folder, now_unix=now)
        if domain not in (None, authority.trust_domain):
            raise AuthorityError(
                f"{folder} holds the CA of trust domain {authority.trust_domain!r}, not of {domain!r}: leave "
                "--domain out, give another --dir, or replace the CA with --force"
            )
        return authority, False
    if domain is None:
        raise click.UsageError("--domain NAME is needed to make a new CA (such as --domain example.mesh)")
    return Authority.create(folder, domain, now_unix=now, life_s=ca_life_s, force=force), True


def _warnings(authority: Authority, issued: Sequence[IssuedNode], *, created: bool) -> list[str]:
    found = [
        f"the certificate of {node.node} ends with the CA, at {utc(node.not_after)}; make a new CA before then"
        for node in issued
        if node.cut_short
    ]
    if created:
        stale = [name for name in known_nodes(authority.folder) if name not in {node.node for node in issued}]
        if stale:
            found.append(
                f"the CA was replaced: {', '.join(stale)} still hold certificates of the old one and will be "
                f"refused; run `mesh ca renew --dir {authority.folder} --new-key --node ID` for each"
            )
    return found


def known_nodes(folder: Path) -> list[NodeId]:
    """Nodes that have a certificate in the folder of a trust domain."""
    return sorted(NodeId(file.parent.name) for file in folder.glob(f"*/{NODE_CERTIFICATE}"))


def _write_config(authority: Authority, node: NodeId) -> bool:
    """Whether it was written. One that exists is somebody's work and stays, with --force too."""
    file = authority.folder / node / NODE_CONFIG
    if file.exists():
        return False
    others = [other for other in known_nodes(authority.folder) if other != node]
    write_file(file, starter_config(authority, node, others).encode(), CERTIFICATE_MODE)
    return True


def starter_config(authority: Authority, node: NodeId, others: Sequence[NodeId]) -> str:
    """A config that starts as it is on this machine, and says what to change on another.

    Every node gets both roles: a mesh in which each node takes requests and serves them has no wrong guess in
    it, and a role is struck out faster than it is found out.
    """
    data_dir = json.dumps(str(authority.folder / node))  # A JSON string is a TOML string.
    peers = "".join(
        f"""
[[peers]]
id = "{other}"
address = "{other}:7443"  # Change to a host name or address under which this node reaches {other}.
roles = ["router", "gpu"]
"""
        for other in others
    )
    return f"""# Node {node} of trust domain {authority.trust_domain}. All keys: mesh config explain

[node]
id = "{node}"
roles = ["router", "gpu"]  # router: takes client traffic; gpu: fronts local runtimes; edge: a router near users.
zone = ""
# Holds ca.pem, node.pem and node.key. On the node's own machine usually /var/lib/infermesh.
data_dir = {data_dir}

[client]
listen = "127.0.0.1:8080"  # "0.0.0.0:8080" to take requests from other machines.

[mesh]
listen = "0.0.0.0:7443"

[admin]
listen = "127.0.0.1:9090"

[trust]
domain = "{authority.trust_domain}"
{peers}
# Without a runtime an emulated engine answers, and says so wherever it shows.
# [[runtimes]]
# kind = "vllm"
# url = "http://127.0.0.1:8000"
"""


def node_document(node: IssuedNode) -> dict[str, object]:
    """One issued node as JSON: names of files and times, never content."""
    return {
        "node": node.node,
        "spiffe_id": node.spiffe_id,
        "action": "renewed" if node.renewed else "created",
        "new_key": node.new_key,
        "certificate_file": str(node.folder / NODE_CERTIFICATE),
        "key_file": str(node.folder / NODE_KEY),
        "ca_file": str(node.folder / CA_CERTIFICATE),
        "not_before": utc(node.not_before),
        "not_after": utc(node.not_after),
    }


def _document(run: _Run) -> dict[str, object]:
    nodes = []
    for node in run.issued:
        config = str(node.folder / NODE_CONFIG) if node.node in run.configs else None
        written = run.configs.get(node.node, False)
        nodes.append({**node_document(node), "config_file": config, "config_written": written})
    folder = run.authority.folder
    return {
        "trust_domain": run.authority.trust_domain,
        "dir": str(folder),
        "ca": {
            "created": run.created,
            "certificate_file": str(folder / CA_CERTIFICATE),
            "key_file": str(folder / CA_KEY),
            "not_after": utc(run.authority.not_after),
        },
        "nodes": nodes,
        "warnings": list(run.warnings),
    }


def _explain(run: _Run) -> None:
    folder = run.authority.folder
    did = "made a CA" if run.created else "used the CA that is there"
    click.echo(f"Trust domain {run.authority.trust_domain}: {did}, valid until {utc(run.authority.not_after)}.")
    for node in run.issued:
        click.echo(describe_issued(node))
    for node_id, written in run.configs.items():
        file = folder / node_id / NODE_CONFIG
        click.echo(f"  {file}: {'starter config written' if written else 'was there, kept as it is'}")
    for warning in run.warnings:
        click.echo(f"Warning: {warning}", err=True)
    first = run.issued[0].node
    without = "" if run.configs else f" (--config writes a starter {NODE_CONFIG})"
    click.echo(
        f"""
Next:
  1. Keep {folder / CA_KEY} here, and nowhere else: whoever has it can be any node.
  2. Copy each node's folder to its machine, and set data_dir in its {NODE_CONFIG} to where it is there:
       scp -rp {folder / first}/. {first}:/var/lib/infermesh/
  3. Start it there{without}: meshd --config /var/lib/infermesh/{NODE_CONFIG}
  4. Before {utc(min(node.not_after for node in run.issued))} renew and copy node.pem again:
       mesh ca renew --dir {folder} --node {first}"""
    )


def describe_issued(node: IssuedNode) -> str:
    did = "certificate renewed" if node.renewed else "certificate made"
    key = "new key" if node.new_key else "same key"
    return f"  {node.spiffe_id}: {did}, {key}, valid until {utc(node.not_after)}, in {node.folder}"
