"""`Sec-WebSocket-Extensions` as text: RFC 6455 section 9.1, names with parameters, tokens or quoted strings.

Not here: what an extension means (`deflate`). A list that is no list is refused whole: who writes such a field is
not understood in half of it.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# A quoted value must be a token once unquoted (RFC 6455 section 9.1), so it holds nothing that needs a backslash.
_VALUE: Final = re.compile(rb'"([!#$%&\'*+\-.^_`|~0-9A-Za-z]+)"|([!#$%&\'*+\-.^_`|~0-9A-Za-z]+)')
_SPACE: Final = re.compile(rb"[ \t]*")
_PARAMETERS_MAX: Final = 16  # The one extension that exists has four.


class Offer(msgspec.Struct, frozen=True):
    """One extension with its parameters in order; a parameter without a value has None."""

    name: bytes
    parameters: tuple[tuple[bytes, bytes | None], ...]


def parse_offers(value: bytes, *, offers_max: int) -> tuple[Offer, ...]:
    """Raises ValueError, with the place, for what is no list of extensions or has too many of them."""
    offers: list[Offer] = []
    at = _skip(value, 0)
    while at < len(value):
        if value[at : at + 1] == b",":  # An empty element (RFC 9110 section 5.6.1.2).
            at = _skip(value, at + 1)
            continue
        if len(offers) == offers_max:
            raise ValueError(f"more than {offers_max} extensions")
        offer, at = _offer(value, at)
        offers.append(offer)
        if at < len(value) and value[at : at + 1] != b",":
            raise ValueError(f"at byte {at}: {value[at : at + 20]!r} where a comma or semicolon is due")
    return tuple(offers)


def _offer(value: bytes, at: int) -> tuple[Offer, int]:
    name, at = _token(value, at)
    parameters: list[tuple[bytes, bytes | None]] = []
    while value[at : at + 1] == b";":
        if len(parameters) == _PARAMETERS_MAX:
            raise ValueError(f"more than {_PARAMETERS_MAX} parameters of {name[:40]!r}")
        key, at = _token(value, _skip(value, at + 1))
        said: bytes | None = None
        if value[at : at + 1] == b"=":
            found = _VALUE.match(value, _skip(value, at + 1))
            if found is None:
                raise ValueError(f"at byte {at}: the parameter {key[:40]!r} has no value after '='")
            said = found[1] or found[2]
            at = _skip(value, found.end())
        parameters.append((key, said))
    return Offer(name, tuple(parameters)), at


def _token(value: bytes, at: int) -> tuple[bytes, int]:
    found = _TOKEN.match(value, at)
    if found is None:
        raise ValueError(f"at byte {at}: {value[at : at + 20]!r} where a name is due")
    return found[0].lower(), _skip(value, found.end())


def _skip(value: bytes, at: int) -> int:
    found = _SPACE.match(value, at)
    assert found is not None, "it matches nothing too"
    return found.end()
