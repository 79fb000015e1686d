"""A node's config: one TOML file, overridden by INFERMESH_SECTION__KEY, overridden by flags.

`load_config` answers a whole, checked value or one ConfigError that lists every fault, each with its place, key,
value and what is allowed. Nothing is opened or resolved here but the file itself: whether an address can be bound
or a certificate is valid is for those who use it. The keys are in `config_sections`; `mesh config explain` prints
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from infermesh.node.config_checks import find_conflicts
from infermesh.node.config_sections import SECTIONS, TABLES, NodeConfig
from infermesh.node.config_source import ConfigError, Settings, read_settings

__all__ = ["ConfigError", "NodeConfig", "load_config"]

_TRUST_FILES = {"ca_file": "ca.pem", "certificate_file": "node.pem", "key_file": "node.key"}
_CLIENT_FILES = ("certificate_file", "key_file")


def load_config(path: Path | None, environ: Mapping[str, str], flags: Mapping[str, str]) -> NodeConfig:
    """`path` None: defaults, environment and flags alone. `flags` are by dotted key: {"client.listen": "..."}."""
    settings = read_settings(path, environ, flags)
    if settings.problems:
        raise ConfigError(tuple(settings.problems))
    config = _assemble(settings)
    place = str(path) if path is not None else "config"
    conflicts = tuple(f"{place}: {conflict}" for conflict in find_conflicts(config))
    if conflicts:
        raise ConfigError(conflicts)
    return config


def _assemble(settings: Settings) -> NodeConfig:
    # Values are typed and checked already; convert only puts them into their structs.
    sections = {name: kind(**settings.section(name)) for name, kind in SECTIONS.items()}
    tables = {name: tuple(kind(**entry) for entry in settings.tables[name]) for name, kind in TABLES.items()}
    config = NodeConfig(**sections, **tables, origins=settings.origins)  # type: ignore[arg-type]
    data_dir = settings.folder / config.node.data_dir
    named = {key for key in _CLIENT_FILES if getattr(config.client, key) != Path()}
    trust = {key: data_dir / name for key, name in _TRUST_FILES.items() if getattr(config.trust, key) == Path()}
    client = {key: settings.folder / getattr(config.client, key) for key in named}
    return msgspec.structs.replace(
        config,
        node=msgspec.structs.replace(config.node, data_dir=data_dir),
        trust=msgspec.structs.replace(config.trust, **trust),
        client=msgspec.structs.replace(config.client, **client),
    )
