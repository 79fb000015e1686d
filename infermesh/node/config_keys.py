"""What a key of the config is: its type, unit, bounds and words, and how a raw value becomes a checked one.

Not the keys themselves (`config_sections`) and not where values come from (`config_source`). Everything here turns
wrong input into one sentence of what is wrong and one of what is allowed; the caller adds file and key.
"""

from __future__ import annotations

import ipaddress
import json
import math
import re
import tomllib
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from infermesh.core.model.names import NodeId
from infermesh.core.model.nodes import Address, Role
from infermesh.observe.redaction import clean_field

VALUE_CHARS_SHOWN = 80


class ValueFault(Exception):
    """A value that cannot be taken: what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """Words and bounds of one key. Relations between keys are in `config_checks`."""

    doc: str
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf
    above: bool = False  # `low` itself is not allowed.
    choices: tuple[str, ...] = ()
    items_max: int = 64  # Of a list.
    port_zero: bool = False  # Port 0, any free one, is allowed.
    empty: bool = False  # An empty text or address is allowed and means none.
    default_text: str = ""  # Instead of the default where that depends on another key.
    fault: Callable[[str], str] | None = None  # What is wrong with a text; "" when nothing is.

    def allowed(self) -> str:
        if self.choices:
            return ", ".join(self.choices)
        if self.low == -math.inf and self.high == math.inf:
            return ""
        unit = f" {self.unit}" if self.unit else ""
        begin = f"above {_figure(self.low)}" if self.above else f"{_figure(self.low)} or more"
        if self.high == math.inf:
            return begin + unit
        if self.above:
            return f"{begin}, up to {_figure(self.high)}{unit}"
        return f"{_figure(self.low)} to {_figure(self.high)}{unit}"


def _figure(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


class KeySpec(msgspec.Struct, frozen=True, kw_only=True):
    """One key of one section as reflected from its annotation."""

    name: str
    type: Any
    key: Key
    default: Any  # msgspec.NODEFAULT: must be given.

    @property
    def required(self) -> bool:
        return self.default is msgspec.NODEFAULT


def keys_of(section: type[msgspec.Struct]) -> tuple[KeySpec, ...]:
    """The keys of a section, in the order of its fields."""
    hints = typing.get_type_hints(section, include_extras=True)
    specs = []
    for field in msgspec.structs.fields(section):
        base, key = typing.get_args(hints[field.name])[:2]
        specs.append(KeySpec(name=field.name, type=base, key=key, default=field.default))
    return tuple(specs)


def take_value(spec: KeySpec, raw: object, folder: Path) -> object:
    """A value from TOML, typed and checked. `folder` is what relative paths are relative to."""
    value = _CONVERTERS[spec.type](raw, spec.key, folder)
    if isinstance(value, str) and spec.key.choices and value not in spec.key.choices:
        raise ValueFault(f"is unknown; allowed: {spec.key.allowed()}")
    return value


def take_text(spec: KeySpec, text: str, folder: Path) -> object:
    """The same for a value from the environment or a flag, where everything is text."""
    return take_value(spec, _read_text(spec.type, text.strip()), folder)


def show(value: object) -> str:
    """A value as an operator wrote it, short and without a password that does not belong there."""
    text = json.dumps(clean_field("value", value), default=str, ensure_ascii=False)
    return text if len(text) <= VALUE_CHARS_SHOWN else text[: VALUE_CHARS_SHOWN - 3] + "..."


# --- Text to TOML value ---


def _read_text(kind: Any, text: str) -> object:
    if kind is bool:
        return _BOOLEANS.get(text.lower(), text)
    if kind is int or kind is float:
        for read in (int, float):
            try:
                return read(text)
            except ValueError:
                continue
        return text
    if kind in (frozenset[Role], tuple[str, ...]):
        return read_list(text) if text.startswith("[") else [part.strip() for part in text.split(",") if part.strip()]
    return text


_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def read_list(text: str) -> object:
    """A list written as JSON or TOML."""
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        raise ValueFault(f"is neither a JSON nor a TOML list: {error}") from None


# --- TOML value to ours ---


def _bool(raw: object, key: Key, folder: Path) -> bool:
    if not isinstance(raw, bool):
        raise ValueFault("is not true or false")
    return raw


def _int(raw: object, key: Key, folder: Path) -> int:
    if isinstance(raw, float) and raw.is_integer():
        raise ValueFault(f"is not a whole number; write {int(raw)}")
    if isinstance(raw, bool) or not isinstance(raw, int):
        raise ValueFault(_with_allowed("is not a whole number", key))
    _check_range(raw, key)
    return raw


def _float(raw: object, key: Key, folder: Path) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        raise ValueFault(_with_allowed("is not a number", key))
    if not math.isfinite(raw):
        raise ValueFault(_with_allowed("is not a finite number", key))
    _check_range(raw, key)
    return float(raw)


def _check_range(value: float, key: Key) -> None:
    low = value > key.low if key.above else value >= key.low
    if not (low and value <= key.high):
        raise ValueFault(f"is out of range; allowed: {key.allowed()}")


def _with_allowed(text: str, key: Key) -> str:
    return f"{text}; allowed: {key.allowed()}" if key.allowed() else text


def _text(raw: object, key: Key, folder: Path) -> str:
    if not isinstance(raw, str):
        raise ValueFault(_with_allowed("is not a text", key))
    if not raw and not key.empty:
        raise ValueFault(_with_allowed("is empty", key))
    if raw and key.fault is not None and (fault := key.fault(raw)):
        raise ValueFault(fault)
    return raw


def _path(raw: object, key: Key, folder: Path) -> Path:
    if not isinstance(raw, str) or "\0" in raw:
        raise ValueFault("is not a path")
    if not raw and not key.empty:
        raise ValueFault("is empty")
    try:
        return folder / Path(raw).expanduser() if raw else Path()
    except RuntimeError as error:  # ~nobody
        raise ValueFault(f"has no such home: {error}") from None


def _address(raw: object, key: Key, folder: Path) -> Address:
    if not isinstance(raw, str):
        raise ValueFault("is not a text; allowed: host:port, such as 127.0.0.1:8080 or [::1]:8080")
    return read_address(raw, port_zero=key.port_zero)


def _optional_address(raw: object, key: Key, folder: Path) -> Address | None:
    return None if raw == "" else _address(raw, key, folder)


_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?")


def read_address(text: str, *, port_zero: bool) -> Address:
    """`host:port`, the host a name, an IPv4 address or an IPv6 address in brackets."""
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueFault("has no port; allowed: host:port, such as 127.0.0.1:8080 or [::1]:8080")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host.partition("%")[0])
        except ValueError:
            raise ValueFault(f"has no IPv6 address in its brackets: {host!r}") from None
    elif ":" in host:
        raise ValueFault(f"is ambiguous; write an IPv6 address in brackets: [{host}]:{port}")
    elif not _HOST.fullmatch(host) or _looks_like_bad_ipv4(host):
        raise ValueFault(f"has no valid host: {host!r}")
    if not port.isascii() or not port.isdigit() or int(port) > 65535 or (int(port) == 0 and not port_zero):
        raise ValueFault(f"has no valid port: {port!r}; allowed: {0 if port_zero else 1} to 65535")
    return Address(host, int(port))


def _looks_like_bad_ipv4(host: str) -> bool:
    """300.1.1.1 would be asked of the DNS, which answers late or lies."""
    if not re.fullmatch(r"[0-9.]+", host):
        return False
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return True
    return False


def _roles(raw: object, key: Key, folder: Path) -> frozenset[Role]:
    names = _names(raw, key, folder)
    known = {role.value: role for role in Role}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueFault(f"has unknown roles: {', '.join(unknown)}; allowed: {', '.join(known)}")
    return frozenset(known[name] for name in names)


def _names(raw: object, key: Key, folder: Path) -> tuple[str, ...]:
    if not isinstance(raw, Sequence) or isinstance(raw, str) or not all(isinstance(item, str) for item in raw):
        raise ValueFault('is not a list of texts; write ["a", "b"]')
    if not raw or not all(raw):
        raise ValueFault("is empty or holds an empty text")
    if len(raw) > key.items_max:
        raise ValueFault(f"holds {len(raw)} items; allowed: up to {key.items_max}")
    if len(set(raw)) != len(raw):
        raise ValueFault("names something twice")
    for item in raw:
        if key.fault is not None and (fault := key.fault(item)):
            raise ValueFault(fault)
    return tuple(raw)


_CONVERTERS: Mapping[Any, Callable[[object, Key, Path], object]] = {
    bool: _bool,
    int: _int,
    float: _float,
    str: _text,
    NodeId: _text,
    Path: _path,
    Address: _address,
    Address | None: _optional_address,
    frozenset[Role]: _roles,
    tuple[str, ...]: _names,
}
