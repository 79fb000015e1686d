"""Invariant: header blocks mean the same to us and to the hpack package, or are refused; limits never lose the table.

Input: the blocks of one connection, each behind two bytes of length. Three decoders of ours read them: one with its
caches, one whose caches are emptied before each block, one with narrow limits, which must refuse as too large exactly
the lists that are, and stay in step. What was decoded is encoded again, and both sides read that.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterator

import hpack as their_hpack
from hpack.exceptions import HPACKError

from fuzz.target import Target, Violation, demand
from wire.http1 import Field
from wire.http2.hpack import Decoder, Encoder, HeaderListTooLarge, HpackError, NeverIndexed

# Refused by us alone, with the sentence: RFC 7541 section 4.2 (two size updates, and at the beginning of a block) and
# section 5.1 (encodings over an implementation's limit are errors; the package has none).
STRICTER = (
    "more than 2 table size updates",
    "an integer of more than 5 octets",
    "a table size update after the first field",
)
_LIST_BYTES_MAX = 400
_FIELDS_MAX = 6
_BLOCKS_MAX = 12


def blocks_of(data: bytes) -> list[bytes]:
    blocks: list[bytes] = []
    at = 0
    while at < len(data) and len(blocks) < _BLOCKS_MAX:
        length = int.from_bytes(data[at : at + 2], "big") % 1025
        blocks.append(data[at + 2 : at + 2 + length])
        at += 2 + length
    return blocks


def check(data: bytes) -> Hashable:
    ours = Decoder(list_bytes_max=1 << 20, fields_max=4096)
    uncached = Decoder(list_bytes_max=1 << 20, fields_max=4096)
    narrow = Decoder(list_bytes_max=_LIST_BYTES_MAX, fields_max=_FIELDS_MAX)
    theirs = their_hpack.Decoder(max_header_list_size=1 << 20)
    encoder, reread, their_reread = (
        Encoder(),
        Decoder(list_bytes_max=1 << 20, fields_max=4096),
        their_hpack.Decoder(1 << 20),
    )
    count = 0
    for block in blocks_of(data):
        uncached._strings.clear()
        uncached._blocks.clear()
        try:
            fields = ours.decode(block)
        except HpackError as error:
            return _refused_by_all(block, str(error), theirs, [uncached, narrow])
        demand(uncached.decode(block) == fields, "the caches change what a block means", block)
        _narrow(narrow, block, fields)
        demand(ours.table_bytes == narrow.table_bytes <= 4096, "tables out of step", ours.table_bytes)
        try:
            expected = [(bytes(name), bytes(value)) for name, value in theirs.decode(block, raw=True)]
        except HPACKError as error:
            raise Violation(f"accepted by us, refused by hpack: {error!r}; {fields}") from error
        demand(fields == expected, "other fields", fields, expected)
        demand(ours.table_bytes == theirs.header_table._current_size, "tables of other sizes", ours.table_bytes)
        written = encoder.encode(fields)
        again = reread.decode(written)
        demand(again == fields, "written again, other fields", again, fields)
        for before, after in zip(fields, again, strict=True):
            if isinstance(before, NeverIndexed):
                demand(isinstance(after, NeverIndexed), "a secret lost its mark", before)
        read = [(bytes(name), bytes(value)) for name, value in their_reread.decode(written, raw=True)]
        demand(read == fields, "hpack reads what we write otherwise", read, fields)
        count += 1
    return "decoded", min(count, 3)


def _refused_by_all(block: bytes, why: str, theirs: their_hpack.Decoder, others: list[Decoder]) -> Hashable:
    for decoder in others:
        try:
            decoder.decode(block)
        except HeaderListTooLarge as error:
            raise Violation(f"the rest of a list too large was not judged: {why}") from error
        except HpackError:
            continue
        raise Violation(f"refused by one decoder of ours alone: {why}")
    if why.startswith(STRICTER):
        return "stricter", why[:20]
    try:
        fields = theirs.decode(block, raw=True)
    except HPACKError:
        return "refused", why.translate(_NO_DIGITS)
    raise Violation(f"refused by us, accepted by hpack: {why}; {fields}")


_NO_DIGITS = dict.fromkeys(map(ord, "0123456789"))


def _narrow(narrow: Decoder, block: bytes, fields: list[Field]) -> None:
    too_large = len(fields) > _FIELDS_MAX or sum(len(n) + len(v) + 32 for n, v in fields) > _LIST_BYTES_MAX
    try:
        read = narrow.decode(block)
    except HeaderListTooLarge:
        demand(too_large, "refused as too large", fields)
        return
    demand(not too_large, "taken, and too large", fields)
    demand(read == fields, "narrow limits change what a block means", read, fields)


def changed_block(data: bytes, rng: random.Random) -> bytes:
    """A representation put into one block, or bytes of it changed; the lengths made right."""
    blocks = blocks_of(data) or [b""]
    number = rng.randrange(len(blocks))
    block = bytearray(blocks[number])
    choice = rng.random()
    if choice < 0.5:
        at = rng.choice((0, len(block), rng.randrange(len(block) + 1)))
        block[at:at] = rng.choice(_PIECES)
    elif choice < 0.7 and block:
        block[rng.randrange(len(block))] = rng.choice(
            (0x80, 0xBE, 0xBF, 0xC0, 0xFF, 0x20, 0x3F, 0x40, 0x7F, rng.randrange(256))
        )
    elif choice < 0.85:
        blocks.insert(number, bytes(block))
    else:
        at = rng.randrange(len(block) + 1)
        del block[at : at + rng.randint(1, 6)]
    blocks[number] = bytes(block[:1024])
    return b"".join(len(block).to_bytes(2, "big") + block for block in blocks[:_BLOCKS_MAX])


_PIECES = (
    b"\x82",
    b"\x86",
    b"\x84",
    b"\xbe",
    b"\xbf",
    b"\xc0",
    b"\x20",
    b"\x3f\xe1\x1f",
    b"\x3f\x00",
    b"\x3f\xe2\x1f",
    b"\x40\x01a\x01b",
    b"\x00\x01a\x01b",
    b"\x10\x01a\x01b",
    b"\x40\x0acustom-key\x0dcustom-header",
    b"\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff",
    b"\x44\x7f\x81\x07" + b"x" * 1024,
    b"\x7f\x80\x80\x80\x80\x00\x00",
    b"\xff\xff\xff\xff\xff\x0f",
    b"\x40\x82\xff\xff\x01x",
    b"\x48\x83\xff\xff\xfc",
    b"\x0f\x0d\x02\x31\x32",
    b"\x5f\x1d" + b"\x03abc",
    b"\x40\x80\x80",
    b"\x58\x86\xa8\xeb\x10\x64\x9c\xbf",
)


def seeds() -> Iterator[bytes]:
    """The connections of RFC 7541 appendix C, and one that evicts."""
    request = (b"\x82\x86\x84\x41\x0fwww.example.com", b"\x82\x86\x84\xbe\x58\x08no-cache")
    third = b"\x82\x87\x85\xbf\x40\x0acustom-key\x0ccustom-value"
    yield _joined(*request, third)
    huffman = bytes.fromhex("828684418cf1e3c2e5f23a6ba0ab90f4ff"), bytes.fromhex("828684be5886a8eb10649cbf")
    yield _joined(*huffman, bytes.fromhex("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf"))
    yield _joined(
        b"\x40\x0acustom-key\x0dcustom-header", b"\x04\x0c/sample/path", b"\x10\x08password\x06secret", b"\x82"
    )
    yield _joined(b"\x3f\xc1\x01", *[b"\x40\x01%c\x28" % (97 + n) + b"v" * 40 for n in range(6)], b"\xbe\xbf\xc0")
    yield _joined(b"\x82\x86\x84", b"\x82\x86\x84", b"\x20\x3f\xe1\x1f\x82")


def _joined(*blocks: bytes) -> bytes:
    return b"".join(len(block).to_bytes(2, "big") + block for block in blocks)


TARGET = Target(
    check=check,
    seeds=seeds,
    covers=("wire.http2.hpack", "wire.http2.hpack_encoder", "wire.http2.huffman"),
    words=_PIECES,
    mutate=changed_block,
    peak_bytes_max=16 << 20,
)
