"""HPACK (RFC 7541): blocks of header fields to bytes and back, with the table that both ends of a connection keep.

One `Decoder` and one `Encoder` per connection. Strict: what the RFC calls a decoding error is an `HpackError`, and so
is more than two size updates in a block. Bounded: see wire/limits.py and docs/wire/hpack.md; nothing that a peer sends
is kept beyond its table, and the caches below, which are a connection's own and small.

Not here: what fields mean, the case of names, and the frames that carry a block.

Duties of the caller, in this order:
1. Bound the block itself before it is whole: work is linear in its length.
2. Decode every block of the connection, in order, also one that answers to nothing (a refused stream): the table is
   shared by all of them.
3. After an `HpackError` end the connection with COMPRESSION_ERROR (ENHANCE_YOUR_CALM for a `HeaderListEndless`):
   nothing further can be decoded. Only after `HeaderListTooLarge` the table is in step, and the fault may stay with
   the stream (431).
4. Announce `table_bytes_max` in SETTINGS when it is not 4,096.
"""

from __future__ import annotations

from typing import Final

from wire.errors import RemoteProtocolError
from wire.http1 import Field
from wire.http2 import huffman
from wire.http2.hpack_encoder import Encoder
from wire.http2.static_table import (
    FIELD_OVERHEAD_BYTES,
    FIRST_DYNAMIC,
    STATIC_FIELDS,
    TABLE_BYTES_DEFAULT,
    NeverIndexed,
)
from wire.limits import (
    HPACK_CACHED_BLOCK_BYTES_MAX,
    HPACK_CACHED_BLOCKS_MAX,
    HPACK_CACHED_STRING_BYTES_MAX,
    HPACK_CACHED_STRINGS_MAX,
    HPACK_FIELDS_MAX,
    HPACK_INTEGER_BYTES_MAX,
    HPACK_LIST_BYTES_MAX,
    HPACK_SIZE_UPDATES_MAX,
    HPACK_SKIPPED_FIELDS_MAX,
    HPACK_TABLE_BYTES_MAX,
)

__all__ = ["Decoder", "Encoder", "HeaderListEndless", "HeaderListTooLarge", "HpackError", "NeverIndexed"]

_STATIC_FIELD_BYTES_MAX: Final = FIELD_OVERHEAD_BYTES + max(len(name) + len(value) for name, value in STATIC_FIELDS)


class HpackError(RemoteProtocolError):
    """The block cannot be decoded: a connection error of type COMPRESSION_ERROR."""


class HeaderListTooLarge(HpackError):
    """More fields, or more octets of them, than allowed. The table is in step: later blocks can be decoded."""

    def __init__(self, message: str) -> None:
        super().__init__(message, 431)


class HeaderListEndless(HpackError):
    """So many fields too many that the rest was not read: the table is lost, as after any other HpackError."""


class Decoder:
    """Blocks of one direction of one connection, in the order in which they came.

    `table_bytes_max` is what we announced. The table starts at the protocol's 4,096 all the same, as a peer may use
    that until it has read our SETTINGS; a larger one has to be asked for by the peer's size update.
    """

    def __init__(
        self,
        *,
        table_bytes_max: int = HPACK_TABLE_BYTES_MAX,
        list_bytes_max: int = HPACK_LIST_BYTES_MAX,
        fields_max: int = HPACK_FIELDS_MAX,
    ) -> None:
        assert table_bytes_max >= 0
        assert list_bytes_max > 0
        assert fields_max > 0
        self._table_bytes_max = table_bytes_max
        self._list_bytes_max = list_bytes_max
        self._fields_max = fields_max
        # By index as on the wire, the static fields first; [0] is never read.
        self._table: list[Field] = [(b"", b""), *STATIC_FIELDS]
        self._table_bytes = 0
        self._table_bytes_allowed = TABLE_BYTES_DEFAULT
        # No field of the tables is larger: spares the sum over a list that cannot be too large.
        self._field_bytes_bound = _STATIC_FIELD_BYTES_MAX
        self._strings: dict[bytes, bytes] = {}  # Huffman code -> plain; thrown away whole when full.
        self._blocks: dict[bytes, list[Field]] = {}  # Blocks of indexes only; void once the table changes.

    @property
    def table_bytes(self) -> int:
        """What the dynamic table counts now (RFC 7541 section 4.1)."""
        return self._table_bytes

    def decode(self, block: bytes) -> list[Field]:
        """The fields of a whole block, in order. Raises HpackError; HeaderListTooLarge once all of it was read."""
        known = self._blocks.get(block)
        if known is not None:
            return known.copy()
        fields: list[Field] = []
        end = len(block)
        pos = self._size_updates(block) if end and block[0] & 0xE0 == 0x20 else 0
        room = self._fields_max
        while pos < end:
            # A representation takes an octet at least, so that no more than `room` fields can come of this piece.
            pos = self._read(block, pos, min(end, pos + room), fields)
            room = self._fields_max - len(fields)
            if room <= 0 and pos < end:
                self._skip(block, pos)
                raise HeaderListTooLarge(f"more than {self._fields_max} header fields in a block of {end} octets")
        self._check_size(fields, end)
        if end == len(fields) and 0 < end <= HPACK_CACHED_BLOCK_BYTES_MAX:
            # As many fields as octets: each is an index, and the block means the same until the table changes.
            if len(self._blocks) >= HPACK_CACHED_BLOCKS_MAX:
                self._blocks.clear()
            self._blocks[block] = fields.copy()
        return fields

    def _read(self, block: bytes, pos: int, stop: int, fields: list[Field]) -> int:
        """Read the representations that begin before `stop`; says where the next one begins."""
        table = self._table
        append = fields.append
        size = len(block)
        index = 0
        try:
            while pos < stop:
                first = block[pos]
                pos += 1
                if first > 0x80:
                    index = first - 0x80
                    if index == 0x7F:
                        index, pos = _integer(block, pos, 0x7F)
                    append(table[index])
                    continue
                if first >= 0x40:
                    if first == 0x80:
                        raise HpackError("index 0 in a header block")
                    fits = 0x3F
                elif first >= 0x20:
                    raise HpackError("a table size update after the first field of a header block")
                else:
                    fits = 0x0F
                index = first & fits
                if index == 0:
                    name, pos = self._string(block, pos)
                elif index < fits:
                    name = table[index][0]
                else:
                    index, pos = _integer(block, pos, fits)
                    name = table[index][0]
                index = 0  # It was found: what fails from here on is the length of the block.
                head = block[pos]
                length = head & 0x7F
                end = pos + 1 + length
                if length == 0x7F or end > size:
                    value, pos = self._string(block, pos)
                else:
                    value = block[pos + 1 : end]
                    pos = end
                    if head >= 0x80 and first >= 0x40:
                        value = huffman.decode(value)  # It goes into the table: no use in keeping it here too.
                    elif head >= 0x80:
                        value = self._strings.get(value) or self._decoded(value)
                if first >= 0x40:
                    field = (name, value)
                    self._insert(field)
                    append(field)
                elif first >= 0x10:
                    append(NeverIndexed((name, value)))
                else:
                    append((name, value))
        except IndexError:
            if index >= len(table):
                held = len(table) - 1
                raise HpackError(f"index {index} in a header block; the tables hold {held} fields") from None
            raise HpackError("a header block ends inside a field") from None
        except huffman.NotHuffman as error:
            raise HpackError(f"a Huffman-coded string holds {error}") from None
        return pos

    def _string(self, block: bytes, pos: int) -> tuple[bytes, int]:
        first = block[pos]
        pos += 1
        length = first & 0x7F
        if length == 0x7F:
            length, pos = _integer(block, pos, 0x7F)
        end = pos + length
        octets = block[pos:end]
        if end > len(block):
            raise HpackError(f"a string of {length} octets runs past the end of its header block")
        if first < 0x80:
            return octets, end
        return self._strings.get(octets) or self._decoded(octets), end

    def _decoded(self, octets: bytes) -> bytes:
        plain = huffman.decode(octets)
        if len(octets) <= HPACK_CACHED_STRING_BYTES_MAX:
            if len(self._strings) >= HPACK_CACHED_STRINGS_MAX:
                self._strings.clear()
            self._strings[octets] = plain
        return plain

    def _insert(self, field: Field) -> None:
        name, value = field
        size = len(name) + len(value) + FIELD_OVERHEAD_BYTES
        room = self._table_bytes_allowed - size
        if self._table_bytes > room:
            self._evict(room)
        if room >= 0:  # A larger field than the table empties it, and is no error (RFC 7541 section 4.4).
            self._table.insert(FIRST_DYNAMIC, field)
            self._table_bytes += size
            if size > self._field_bytes_bound:
                self._field_bytes_bound = size
        if self._blocks:
            self._blocks.clear()

    def _evict(self, room: int) -> None:
        """Drop the oldest fields until the table counts no more than `room`, or is empty. `_blocks` are void then."""
        table = self._table
        held = self._table_bytes
        while held > room and held:
            name, value = table.pop()
            held -= len(name) + len(value) + FIELD_OVERHEAD_BYTES
        self._table_bytes = held

    def _size_updates(self, block: bytes) -> int:
        """Obey the size updates at the start of `block`; says where its first field begins."""
        pos = count = 0
        while pos < len(block) and block[pos] & 0xE0 == 0x20:
            count += 1
            if count > HPACK_SIZE_UPDATES_MAX:
                raise HpackError(f"more than {HPACK_SIZE_UPDATES_MAX} table size updates in a header block")
            size = block[pos] & 0x1F
            pos += 1
            if size == 0x1F:
                size, pos = _integer(block, pos, 0x1F)
            if size > self._table_bytes_max:
                raise HpackError(f"a table size update to {size} octets; {self._table_bytes_max} were announced")
            self._blocks.clear()
            self._table_bytes_allowed = size
            self._evict(size)
        return pos

    def _skip(self, block: bytes, pos: int) -> None:
        """Read the rest for what it does to the table, keeping no more than a piece of it at a time."""
        left = HPACK_SKIPPED_FIELDS_MAX
        while pos < len(block):
            skipped: list[Field] = []
            pos = self._read(block, pos, min(len(block), pos + self._fields_max), skipped)
            left -= len(skipped)
            if left < 0:
                held = self._fields_max + HPACK_SKIPPED_FIELDS_MAX
                raise HeaderListEndless(f"more than {held} header fields in a block of {len(block)} octets")

    def _check_size(self, fields: list[Field], block_bytes: int) -> None:
        # Names and values out of the tables are no larger than the bound, literal ones together no longer than
        # twice the block.
        if len(fields) * self._field_bytes_bound + 2 * block_bytes <= self._list_bytes_max:
            return
        size = sum(len(name) + len(value) + FIELD_OVERHEAD_BYTES for name, value in fields)
        if size > self._list_bytes_max:
            raise HeaderListTooLarge(f"a header list of {size} octets; {self._list_bytes_max} are allowed")
        # The bound only grows until here; the large field may be gone.
        held = (len(name) + len(value) + FIELD_OVERHEAD_BYTES for name, value in self._table[FIRST_DYNAMIC:])
        self._field_bytes_bound = max(_STATIC_FIELD_BYTES_MAX, max(held, default=0))


def _integer(block: bytes, pos: int, fits: int) -> tuple[int, int]:
    """The rest of an integer whose prefix is full with `fits` (RFC 7541 section 5.1), and the position after it."""
    rest = block[pos : pos + HPACK_INTEGER_BYTES_MAX]
    value = fits
    shift = 0
    for octet in rest:
        pos += 1
        if octet < 0x80:
            return value + (octet << shift), pos
        value += (octet & 0x7F) << shift
        shift += 7
    if len(rest) < HPACK_INTEGER_BYTES_MAX:
        raise HpackError("a header block ends inside an integer")
    raise HpackError(f"an integer of more than {HPACK_INTEGER_BYTES_MAX} octets after its prefix")
