"""The KV bookkeeping of one engine."""

from __future__ import annotations

from infermesh.core.model.blocks import BlockCache


def test_a_published_block_is_shared_by_holders_and_idle_after_the_last() -> None:
    cache = BlockCache(4)
    cache.allocate(2)
    assert cache.publish(7)
    cache.hold([7])
    assert (cache.used, cache.free, cache.private) == (2, 2, 1)
    cache.release([7], 1)
    assert (cache.used, cache.idle) == (1, 0)
    cache.release([7], 0)
    assert (cache.used, cache.idle, cache.free) == (0, 1, 4)
    assert cache.match([7, 8], limit=2) == (1, 1)
    cache.check()


def test_a_second_copy_of_a_held_block_stays_private() -> None:
    cache = BlockCache(4)
    cache.allocate(2)
    assert cache.publish(7)
    assert not cache.publish(7)
    assert cache.private == 1
    cache.check()


def test_an_idle_block_with_a_lost_parent_is_replaced_by_a_newly_computed_one() -> None:
    cache = BlockCache(2)
    cache.allocate(1)
    cache.publish(7)
    cache.release([7], 0)
    cache.allocate(1)
    assert cache.publish(7)
    assert (cache.used, cache.idle) == (1, 0)
    cache.check()


def test_allocation_takes_empty_blocks_before_it_evicts_the_longest_idle() -> None:
    cache = BlockCache(3)
    for block in (1, 2):
        cache.allocate(1)
        cache.publish(block)
        cache.release([block], 0)
    cache.allocate(1)
    assert cache.idle == 2
    cache.allocate(1)
    assert cache.match([1], limit=1) == (0, 0)
    assert cache.match([2], limit=1) == (1, 1)
    cache.check()


def test_a_match_stops_at_the_first_unknown_block_and_at_the_limit() -> None:
    cache = BlockCache(8)
    cache.allocate(3)
    for block in (1, 2, 4):
        cache.publish(block)
    assert cache.match([1, 2, 3, 4], limit=4) == (2, 0)
    assert cache.match([1, 2], limit=1) == (1, 0)
