"""Which target holds which prompt prefix, without a tokenizer: chained hashes of blocks of bytes.

Blocks are 256 bytes at the start of a prompt and grow to an eighth of what came before, so that a cached
prefix is known to within 12.5 % of its length with 8 blocks per doubling. `BLOCKS_MAX` blocks reach 4 MiB;
what lies beyond is not told apart. Hashing costs about 5 us for 10 KB and 20 us for 1 MB.

Not a security boundary: two prompts that collide are sent to the same place, nothing else.
"""

from __future__ import annotations

from collections import OrderedDict

from xxhash import xxh3_64_intdigest

BLOCKS_MAX = 96


def _ends() -> tuple[int, ...]:
    ends: list[int] = []
    end = 0
    for index in range(BLOCKS_MAX):
        end += 256 << max(0, index // 8 - 1)
        ends.append(end)
    return tuple(ends)


ENDS = _ends()
"""ENDS[i]: bytes of prompt that the first i + 1 blocks cover."""

SIZES = tuple(end - start for start, end in zip((0, *ENDS), ENDS, strict=False))


def blocks_of(prompt: bytes | memoryview) -> tuple[int, ...]:
    """Hashes of the prompt's leading whole blocks. Equal hashes at one index mean equal bytes up to its end."""
    view = memoryview(prompt)
    length = len(view)
    digest = start = 0
    blocks: list[int] = []
    for end in ENDS:
        if end > length:
            break
        # The digest so far is the seed of the next: a block's hash stands for everything before it, too.
        digest = xxh3_64_intdigest(view[start:end], digest)
        blocks.append(digest)
        start = end
    return tuple(blocks)


class Holding:
    """What one target holds: its blocks, least recently used first. `bit` marks it in the index's masks."""

    __slots__ = ("bit", "blocks", "used_bytes")

    def __init__(self, bit: int) -> None:
        self.bit = bit
        self.blocks: OrderedDict[int, int] = OrderedDict()
        self.used_bytes = 0


class PrefixIndex:
    """All holdings of one model, seen from the block: a mask of the targets that hold it.

    A prompt's blocks are touched from the last to the first, so that a holding drops ends of prefixes before
    their beginnings, as engines do. Hence whoever holds block i holds all before it, and depth is a bisection.
    """

    __slots__ = ("_masks",)

    def __init__(self) -> None:
        self._masks: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._masks)

    def mask(self, block: int) -> int:
        return self._masks.get(block, 0)

    def known(self, blocks: tuple[int, ...]) -> int:
        """How many leading blocks somebody holds."""
        masks = self._masks
        if not blocks or blocks[0] not in masks:
            return 0
        low, high = 1, len(blocks)
        while low < high:
            middle = (low + high + 1) >> 1
            if blocks[middle - 1] in masks:
                low = middle
            else:
                high = middle - 1
        return low

    def depth(self, holding: Holding, blocks: tuple[int, ...], known: int) -> int:
        """How many leading blocks this target holds. `known` is an upper bound, from `known`."""
        held = holding.blocks
        if not known or blocks[0] not in held:
            return 0
        if blocks[known - 1] in held:
            return known
        low, high = 1, known - 1
        while low < high:
            middle = (low + high + 1) >> 1
            if blocks[middle - 1] in held:
                low = middle
            else:
                high = middle - 1
        return low

    def shared(self, blocks: tuple[int, ...], known: int, everybody: int) -> int:
        """How many leading blocks every target in the mask `everybody` holds."""
        masks = self._masks
        if not known or masks[blocks[0]] & everybody != everybody:
            return 0
        low, high = 1, known
        while low < high:
            middle = (low + high + 1) >> 1
            if masks[blocks[middle - 1]] & everybody == everybody:
                low = middle
            else:
                high = middle - 1
        return low

    def place(self, holding: Holding, blocks: tuple[int, ...], *, bytes_max: int, blocks_max: int) -> None:
        """This target was sent a prompt that begins with these blocks."""
        held, masks, bit = holding.blocks, self._masks, holding.bit
        refresh = held.move_to_end
        used = holding.used_bytes
        for index in range(len(blocks) - 1, -1, -1):
            block = blocks[index]
            if block in held:
                refresh(block)
            else:
                size = held[block] = SIZES[index]
                used += size
                masks[block] = masks.get(block, 0) | bit
        evict, others = held.popitem, ~bit
        while used > bytes_max or len(held) > blocks_max:
            block, size = evict(False)
            used -= size
            left = masks[block] & others
            if left:
                masks[block] = left
            else:
                del masks[block]
        holding.used_bytes = used

    def forget(self, holding: Holding) -> None:
        """This target lost its cache: its engine started anew, or it left."""
        masks, others = self._masks, ~holding.bit
        for block in holding.blocks:
            left = masks[block] & others
            if left:
                masks[block] = left
            else:
                del masks[block]
        holding.blocks.clear()
        holding.used_bytes = 0


class Heat:
    """How much of a model's recent traffic asks for one affinity key, by counts that halve when they are full.

    The key of a prompt is its first block past the prefix that every target holds: keyed by its very first
    block, a system prompt that all requests share would draw everything to one target.
    """

    __slots__ = ("_counts", "_total")

    _TOTAL_MAX = 1024

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._total = 0

    def __len__(self) -> int:
        return len(self._counts)

    def note(self, key: int) -> None:
        self._counts[key] = self._counts.get(key, 0) + 1
        self._total += 1
        if self._total >= self._TOTAL_MAX:
            self._counts = {known: count >> 1 for known, count in self._counts.items() if count > 1}
            self._total = sum(self._counts.values())

    def share(self, key: int) -> float:
        return self._counts.get(key, 0) / self._total if self._total else 0.0
