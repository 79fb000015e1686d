"""What must hold between the keys of one config. Each fault names both keys, their values and where they are from."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from urllib.parse import urlsplit

from infermesh.core.model.nodes import Address
from infermesh.node.config_cores import admission_config, routing_config
from infermesh.node.config_sections import KSERVE_KINDS, NodeConfig, RuntimeSection


def find_conflicts(config: NodeConfig) -> list[str]:
    """Every conflict, in the order of the sections; empty when the config can be used."""
    return [
        *_identity(config),
        *_listeners(config),
        *_client_tls(config),
        *_peers(config),
        *_runtimes(config),
        *_orders(config),
        *_cores(config),
    ]


def _identity(config: NodeConfig) -> Iterator[str]:
    if config.meshed and not config.trust.domain:
        why = "[[peers]] are configured" if config.peers else "node.roles has neither router nor edge"
        yield f"trust.domain is missing, but {why}; set it to the name given to `mesh init --domain`"


def _listeners(config: NodeConfig) -> Iterator[str]:
    listeners = [("admin.listen", config.admin.listen)]
    if config.routes:
        listeners.append(("client.listen", config.client.listen))
    if config.meshed:
        listeners.append(("mesh.listen", config.mesh.listen))
    for (one, first), (other, second) in combinations(listeners, 2):
        if first.port == second.port != 0 and _overlap(first.host, second.host):
            yield (
                f"{_said(config, one, first)} and {_said(config, other, second)} are the same port; give each its own"
            )


def _client_tls(config: NodeConfig) -> Iterator[str]:
    section = config.client
    given = [key for key in ("certificate_file", "key_file") if getattr(section, key) != Path()]
    if len(given) == 1:
        missing = "key_file" if given == ["certificate_file"] else "certificate_file"
        yield f"{_said(config, f'client.{given[0]}', getattr(section, given[0]))} needs client.{missing} beside it"
    if section.plaintext and not given:
        yield (
            f"{_said(config, 'client.plaintext', section.plaintext)} says nothing without client.certificate_file: "
            "a port without a certificate takes plain text only; leave it out"
        )


def _overlap(one: str, other: str) -> bool:
    return one == other or _is_wildcard(one) or _is_wildcard(other)


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _peers(config: NodeConfig) -> Iterator[str]:
    ids: dict[str, int] = {}
    addresses: dict[Address, int] = {}
    for number, peer in enumerate(config.peers):
        at = f"peers[{number}]"
        if peer.id == config.node.id:
            yield (
                f"{_said(config, f'{at}.id', peer.id)} is this node itself ({_said(config, 'node.id', peer.id)}); "
                "leave it out of [[peers]]"
            )
        if peer.id in ids:
            yield f"{_said(config, f'{at}.id', peer.id)} is also peers[{ids[peer.id]}].id; each peer has one entry"
        if peer.address in addresses:
            other = f"peers[{addresses[peer.address]}].address"
            yield f"{_said(config, f'{at}.address', peer.address)} is also {other}; each peer has its own address"
        ids.setdefault(peer.id, number)
        addresses.setdefault(peer.address, number)


def _runtimes(config: NodeConfig) -> Iterator[str]:
    if config.runtimes and not config.fronts_runtimes:
        roles = ", ".join(sorted(config.node.roles))
        yield (
            f"[[runtimes]] are configured, but node.roles = {roles} has no gpu; "
            'add "gpu" to node.roles or take the runtimes out'
        )
    urls: dict[str, int] = {}
    for number, runtime in enumerate(config.runtimes):
        if runtime.url in urls:
            other = f"runtimes[{urls[runtime.url]}].url"
            yield f"{_said(config, f'runtimes[{number}].url', runtime.url)} is also {other}; each runtime has one entry"
        parts = urlsplit(runtime.url)
        version = runtime.url.rstrip("/")[-3:]
        if version in ("/v1", "/v2"):
            yield (
                f"{_said(config, f'runtimes[{number}].url', runtime.url)} ends in {version}; write the base URL, "
                f"to which {version}/... is added"
            )
        elif parts.scheme != "http" or parts.path.strip("/"):
            yield (
                f"{_said(config, f'runtimes[{number}].url', runtime.url)} is not http://host:port: requests go to a "
                "runtime in plain HTTP and with the path that the client asked for"
            )
        urls.setdefault(runtime.url, number)
        yield from _kserve_only(config, f"runtimes[{number}]", runtime)


def _kserve_only(config: NodeConfig, at: str, runtime: RuntimeSection) -> Iterator[str]:
    if runtime.kind in KSERVE_KINDS:
        return
    for name in ("grpc_url", "metrics_url", "models"):
        if value := getattr(runtime, name):
            yield (
                f"{_said(config, f'{at}.{name}', value)} is set, but that key is for {', '.join(KSERVE_KINDS)} and "
                f"{_said(config, f'{at}.kind', runtime.kind)}; take it out"
            )


# (smaller key, factor, larger key): factor times the smaller may not pass the larger.
_ORDERS = (
    ("membership.heartbeat_s", 2, "membership.suspect_after_s"),  # A suspicion must outlast a lost heartbeat.
    ("membership.suspect_after_s", 1, "membership.dead_after_s"),
    # States come with each heartbeat at least: a limit below it would call everything stale.
    ("membership.heartbeat_s", 1, "routing.stale_after_s"),
    ("routing.stale_after_s", 1, "routing.forget_after_s"),
    ("admission.retry_after_min_s", 1, "admission.retry_after_max_s"),
    ("upstream.pool_idle_max", 1, "upstream.connections_max"),
    ("client.body_bytes_max", 1, "client.bodies_bytes_max"),
)


def _orders(config: NodeConfig) -> Iterator[str]:
    for smaller, factor, larger in _ORDERS:
        low, high = _number(config, smaller), _number(config, larger)
        if low * factor > high:
            most = "at most" if factor == 1 else f"at most 1/{factor} of"
            yield f"{_said(config, smaller, low)} must be {most} {_said(config, larger, high)}"


def _number(config: NodeConfig, key: str) -> float:
    section, _, name = key.partition(".")
    value = getattr(getattr(config, section), name)
    assert isinstance(value, int | float), key
    return value


def _cores(config: NodeConfig) -> Iterator[str]:
    """The cores have the last word on their own settings."""
    for build in (routing_config, admission_config):
        try:
            build(config)
        except ValueError as error:
            yield str(error)


def _said(config: NodeConfig, key: str, value: object) -> str:
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{key} = {shown} ({config.origins.get(key, 'default')})"
