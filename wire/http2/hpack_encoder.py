"""The encoding side of HPACK (RFC 7541): header fields to blocks, with the table that the peer keeps in step.

What is added to the table is chosen for lists that repeat except for a few values (ids, deadlines, trace context): a
field goes into the table when its name is new to it, or when it comes a second time. So a value that never repeats
does not push out those that do, its name is one index all the same, and a steady list changes no table at all.

A value that is not added is sent as it is: its Huffman code would spare a quarter of its octets and cost both ends more
than everything else in the block. What is added is sent once and coded.

Not here: the order and the case of names. The caller gives names in lower case, and marks what must never be indexed
(`NeverIndexed`) beyond the names that are known here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from wire.http1 import Field
from wire.http2 import huffman
from wire.http2.static_table import (
    FIELD_OVERHEAD_BYTES,
    FIRST_DYNAMIC,
    STATIC_FIELDS,
    TABLE_BYTES_DEFAULT,
    NeverIndexed,
)
from wire.limits import HPACK_TABLE_BYTES_MAX

# Secrets stay out of tables, where a guess could be told from its size (RFC 7541 section 7.1).
_SECRET_NAMES: Final = frozenset({b"authorization", b"set-cookie", b"x-api-key", b"api-key"})
_SECRET_PREFIX: Final = b"proxy-"
# Whose values never come a second time: not even remembered to have come once.
_FLEETING_NAMES: Final = frozenset({b"x-infermesh-request-id", b"traceparent", b"grpc-timeout"})
# A cookie this short can be guessed; longer crumbs are worth their place. Other implementations draw the line here too.
_SECRET_COOKIE_BYTES_MAX: Final = 19
# One field takes no more than this share of the table, or it would push out all the others.
_TABLE_SHARE: Final = 4

# The first octet's mark and the largest number that fits beside it (RFC 7541 section 6).
_INDEXED: Final = (0x80, 0x7F)
_ADDED: Final = (0x40, 0x3F)
_SIZE_UPDATE: Final = (0x20, 0x1F)
_NEVER_INDEXED: Final = (0x10, 0x0F)
_NOT_ADDED: Final = (0x00, 0x0F)
_CODED: Final = (0x80, 0x7F)
_PLAIN: Final = (0x00, 0x7F)


class Encoder:
    """Blocks of one direction of one connection, in the order in which they are sent: all of them, none twice.

    `table_bytes_max` is the most that we keep, however much the peer allows.
    """

    def __init__(self, *, table_bytes_max: int = HPACK_TABLE_BYTES_MAX) -> None:
        assert table_bytes_max >= 0
        self._table_bytes_max = table_bytes_max
        self._fields: deque[Field] = deque()  # The table, oldest first.
        self._table_bytes = 0
        self._table_bytes_allowed = TABLE_BYTES_DEFAULT
        self._table_bytes_told = TABLE_BYTES_DEFAULT
        self._table_bytes_lowest = TABLE_BYTES_DEFAULT  # Since the last block.
        # The nth field ever added has the number n: indexes move with each addition, numbers do not.
        self._added = 0
        self._numbers: dict[Field, int] = {}
        self._name_numbers: dict[bytes, int] = {}
        # Octets for fields and names that are in the tables; void once the table changes.
        self._indexed: dict[Field, bytes] = {}
        self._names: dict[bytes, bytes] = {}
        # Fields that came once. Counted like the table and no larger: what is not repeated within that is forgotten.
        self._once: set[Field] = set()
        self._once_bytes = 0
        if table_bytes_max < TABLE_BYTES_DEFAULT:
            self.set_table_bytes_max(table_bytes_max)

    @property
    def table_bytes(self) -> int:
        """What the dynamic table counts now (RFC 7541 section 4.1)."""
        return self._table_bytes

    def set_table_bytes_max(self, size: int) -> None:
        """The peer's SETTINGS_HEADER_TABLE_SIZE, when its SETTINGS are acknowledged. The next block tells our size."""
        assert size >= 0
        allowed = min(size, self._table_bytes_max)
        self._table_bytes_allowed = allowed
        self._table_bytes_lowest = min(self._table_bytes_lowest, allowed)
        self._evict(allowed)

    def encode(self, fields: Iterable[Field]) -> bytes:
        """The block for `fields`, names in lower case."""
        parts: list[bytes] = []
        if self._table_bytes_lowest != self._table_bytes_told or self._table_bytes_allowed != self._table_bytes_told:
            parts.append(self._size_updates())
        append = parts.append
        known = self._indexed.get
        for field in fields:
            octets = known(field)
            if octets is None or field.__class__ is NeverIndexed:
                octets = self._represent(field)
            append(octets)
        return b"".join(parts)

    def _represent(self, field: Field) -> bytes:
        name, value = field
        prefix = self._names.get(name)
        # A name that has a prefix is no secret, whatever its value.
        if field.__class__ is NeverIndexed or (prefix is None and _is_secret(name, value)):
            return self._name(name, _NEVER_INDEXED) + _plain(value)
        if prefix is not None and name in _FLEETING_NAMES:
            return prefix + _plain(value)
        index = _STATIC_INDEXES.get(field)
        number = self._numbers.get(field)
        if index or number:
            octets = self._indexed[field] = _integer(index or self._index_of(number), _INDEXED)
            return octets
        size = len(name) + len(value) + FIELD_OVERHEAD_BYTES
        if size * _TABLE_SHARE > self._table_bytes_allowed:
            return self._name(name, _NOT_ADDED) + _plain(value)
        if prefix is None:
            if not self._name_index(name):
                return self._add(field, size)
            prefix = self._name(name, _NOT_ADDED)
            if name != b"cookie":  # Of which some are secrets.
                self._names[name] = prefix
        if field in self._once:
            return self._add(field, size)
        if self._once_bytes + size > HPACK_TABLE_BYTES_MAX:
            self._once.clear()
            self._once_bytes = 0
        self._once.add(field)
        self._once_bytes += size
        length = len(value)
        return prefix + _LENGTHS[length] + value if length < 256 else prefix + _plain(value)

    def _add(self, field: Field, size: int) -> bytes:
        name, value = field
        octets = self._name(name, _ADDED) + _coded(value)  # Indexes are those from before the addition.
        self._evict(self._table_bytes_allowed - size)
        self._indexed.clear()
        self._names.clear()
        self._added += 1
        self._fields.append(field)
        self._numbers[field] = self._name_numbers[name] = self._added
        self._table_bytes += size
        return octets

    def _evict(self, table_bytes: int) -> None:
        """Drop the oldest fields until the table counts no more than `table_bytes`."""
        if self._table_bytes > table_bytes:
            self._indexed.clear()
            self._names.clear()
        while self._table_bytes > table_bytes:
            field = self._fields.popleft()
            name, value = field
            number = self._numbers.pop(field)
            if self._name_numbers[name] == number:
                del self._name_numbers[name]
            self._table_bytes -= len(name) + len(value) + FIELD_OVERHEAD_BYTES

    def _size_updates(self) -> bytes:
        """The smallest size since the last block, and the one from now on (RFC 7541 section 4.2)."""
        lowest, allowed = self._table_bytes_lowest, self._table_bytes_allowed
        octets = b""
        if lowest < self._table_bytes_told and lowest < allowed:
            octets = _integer(lowest, _SIZE_UPDATE)
        self._table_bytes_told = self._table_bytes_lowest = allowed
        return octets + _integer(allowed, _SIZE_UPDATE)

    def _index_of(self, number: int | None) -> int:
        return FIRST_DYNAMIC + self._added - number if number else 0

    def _name_index(self, name: bytes) -> int:
        return _STATIC_NAMES.get(name) or self._index_of(self._name_numbers.get(name))

    def _name(self, name: bytes, kind: tuple[int, int]) -> bytes:
        """How a literal of this kind begins: the index of its name, or the name itself."""
        index = self._name_index(name)
        return _integer(index, kind) if index else _integer(0, kind) + _coded(name)


def _is_secret(name: bytes, value: bytes) -> bool:
    if name == b"cookie":
        return len(value) <= _SECRET_COOKIE_BYTES_MAX
    return name in _SECRET_NAMES or name.startswith(_SECRET_PREFIX)


def _integer(value: int, kind: tuple[int, int]) -> bytes:
    """RFC 7541 section 5.1."""
    mark, fits = kind
    if value < fits:
        return bytes((mark | value,))
    octets = bytearray((mark | fits,))
    value -= fits
    while value >= 0x80:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)


_LENGTHS: Final = tuple(_integer(length, _PLAIN) for length in range(256))


def _plain(value: bytes) -> bytes:
    length = len(value)
    return (_LENGTHS[length] if length < 256 else _integer(length, _PLAIN)) + value


def _coded(value: bytes) -> bytes:
    code = huffman.encode(value)
    return _integer(len(code), _CODED) + code if len(code) < len(value) else _plain(value)


_STATIC_INDEXES: Final = {field: index for index, field in enumerate(STATIC_FIELDS, start=1)}
_STATIC_NAMES: Final = {name: index for index, (name, _) in reversed(list(enumerate(STATIC_FIELDS, start=1)))}
