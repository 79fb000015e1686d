"""The KV memory of one engine: blocks, who holds them, and which idle ones still hold a known prefix.

Pure bookkeeping in whole blocks. A block is *held* (shared under its hash and counted by holders, or
private to one sequence), *idle* (held by nobody, its content still known, oldest evicted first) or empty.
Not a scheduler: the caller asks `free` before it allocates, and gives back exactly what it took.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class BlockCache:
    __slots__ = ("_holders", "_idle", "capacity", "private", "version")

    def __init__(self, capacity: int) -> None:
        assert capacity >= 1
        self.capacity = capacity
        self.private = 0
        self.version = 0  # Grows whenever an allocation that failed before might succeed now.
        self._holders: dict[int, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()

    @property
    def used(self) -> int:
        return len(self._holders) + self.private

    @property
    def held(self) -> int:
        """Shared blocks in use, each counted once."""
        return len(self._holders)

    @property
    def free(self) -> int:
        """Blocks that can be allocated: the empty ones and the idle ones."""
        return self.capacity - len(self._holders) - self.private

    @property
    def idle(self) -> int:
        return len(self._idle)

    def match(self, blocks: Sequence[int], limit: int) -> tuple[int, int]:
        """How many leading blocks are known, at most `limit`, and how many of those are idle."""
        holders, idle = self._holders, self._idle
        hits = idle_hits = 0
        for block in blocks[:limit]:
            if block in idle:
                idle_hits += 1
            elif block not in holders:
                break
            hits += 1
        return hits, idle_hits

    def hold(self, blocks: Sequence[int]) -> None:
        """Share known blocks: each was in the last `match`."""
        holders, idle = self._holders, self._idle
        for block in blocks:
            count = holders.get(block)
            if count is None:
                del idle[block]
                holders[block] = 1
            else:
                holders[block] = count + 1

    def allocate(self, count: int) -> None:
        """Take `count` private blocks; the empty ones first, then those idle for longest."""
        assert count <= self.free
        idle = self._idle
        evict = count - (self.capacity - len(self._holders) - self.private - len(idle))
        for _ in range(evict):
            idle.popitem(last=False)
        self.private += count

    def publish(self, block: int) -> bool:
        """Turn one private block into the shared one of this hash. False when another sequence holds one."""
        if block in self._holders:
            return False  # Two sequences computed the same prefix at once: the second copy stays private.
        self._idle.pop(block, None)  # An orphan whose parent was evicted; ours replaces it.
        self._holders[block] = 1
        self.private -= 1
        self.version += 1
        return True

    def release(self, held: Sequence[int], private: int) -> None:
        """Give back what one sequence took. Tails go idle first, so that heads of prefixes live longest."""
        assert private <= self.private
        holders, idle = self._holders, self._idle
        for block in reversed(held):
            count = holders[block]
            if count == 1:
                del holders[block]
                idle[block] = None
            else:
                holders[block] = count - 1
        self.private -= private
        self.version += 1

    def forget(self) -> None:
        """Drop every idle prefix (vLLM: reset_prefix_cache). Held blocks stay."""
        self._idle.clear()

    def check(self) -> None:
        """State what must hold between any two calls. Costs a walk: for tests and simulation checkers."""
        assert self.private >= 0
        assert self.used + len(self._idle) <= self.capacity
        assert all(count >= 1 for count in self._holders.values())
        assert self._holders.keys().isdisjoint(self._idle.keys())
