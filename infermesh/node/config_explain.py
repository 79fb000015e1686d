"""Every key of a config with its unit, value, default, origin and words: what `mesh config explain` prints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from infermesh.core.model.nodes import Address
from infermesh.node.config_keys import KeySpec
from infermesh.node.config_sections import NodeConfig
from infermesh.node.config_source import SPECS, TABLE_SPECS

REQUIRED = "required"

Plain = str | int | float | bool | list[str] | None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One key. `value` and `default` are what one would write in TOML; None where there is none."""

    key: str
    value: Plain
    unit: str
    default: Plain
    origin: str
    allowed: str
    doc: str


def explain(config: NodeConfig) -> list[Row]:
    """All keys in the order of the sections. [[peers]] and [[runtimes]]: each entry, or the bare keys when none is."""
    rows = []
    for key, spec in SPECS.items():
        section, _, name = key.partition(".")
        value = getattr(getattr(config, section), name)
        rows.append(_row(key, spec, value, config.origins.get(key, "default")))
    for table, specs in TABLE_SPECS.items():
        rows += _table_rows(config, table, specs)
    return rows


def _table_rows(config: NodeConfig, table: str, specs: dict[str, KeySpec]) -> Iterator[Row]:
    entries = getattr(config, table)
    if not entries:
        for name, spec in specs.items():
            yield _row(f"{table}[].{name}", spec, None, "not configured")
    for number, entry in enumerate(entries):
        for name, spec in specs.items():
            key = f"{table}[{number}].{name}"
            yield _row(key, spec, getattr(entry, name), config.origins.get(key, "default"))


def _row(key: str, spec: KeySpec, value: object, origin: str) -> Row:
    default = REQUIRED if spec.required else spec.key.default_text or plain(spec.default)
    return Row(
        key=key,
        value=plain(value),
        unit=spec.key.unit,
        default=default,
        origin=origin,
        allowed=spec.key.allowed(),
        doc=spec.key.doc,
    )


def plain(value: object) -> Plain:
    """A value as TOML and JSON write it."""
    if value is None:
        return ""  # The only empty value: an address that may be left out.
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, frozenset | tuple):
        return sorted(str(item) for item in value) if isinstance(value, frozenset) else [str(item) for item in value]
    assert isinstance(value, Address | Path), value
    return str(value)
