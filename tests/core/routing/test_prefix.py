from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from infermesh.core.routing.prefix import BLOCKS_MAX, ENDS, SIZES, Heat, Holding, PrefixIndex, blocks_of

KIB = 1024


def test_blocks_are_256_bytes_at_first_and_an_eighth_of_what_came_before_later() -> None:
    assert SIZES[:16] == (256,) * 16
    assert SIZES[16:24] == (512,) * 8
    assert SIZES[24] == 1024
    assert ENDS[7] == 2 * KIB
    assert ENDS[23] == 8 * KIB
    assert all(size <= max(256, (end - size) / 8) for size, end in zip(SIZES, ENDS, strict=True))


def test_the_blocks_reach_4_mib_and_no_further() -> None:
    assert ENDS[-1] == 4 * KIB * KIB
    assert len(blocks_of(b"x" * (5 * KIB * KIB))) == BLOCKS_MAX


def test_a_block_is_hashed_with_the_digest_before_it_as_seed() -> None:
    first = xxh3_64_intdigest(b"a" * 256, 0)
    assert blocks_of(b"a" * 256 + b"b" * 256) == (first, xxh3_64_intdigest(b"b" * 256, first))


@pytest.mark.parametrize(("length", "count"), [(0, 0), (255, 0), (256, 1), (511, 1), (10_240, 26)])
def test_only_whole_blocks_count(length: int, count: int) -> None:
    assert len(blocks_of(b"x" * length)) == count


def test_a_view_and_the_bytes_under_it_have_the_same_blocks() -> None:
    body = b'{"prompt": "' + bytes(range(256)) * 8 + b'"}'
    assert blocks_of(memoryview(body)[12:]) == blocks_of(body[12:])


@given(st.binary(min_size=2_000, max_size=6_000), st.integers(0, 5_999))
def test_a_changed_byte_changes_its_block_and_all_after_it(prompt: bytes, at: int) -> None:
    at %= len(prompt)
    changed = prompt[:at] + bytes([prompt[at] ^ 1]) + prompt[at + 1 :]
    before, after = blocks_of(prompt), blocks_of(changed)
    same = sum(1 for end in ENDS if end <= at)
    assert before[:same] == after[:same]
    assert not set(before[same:]) & set(after[same:])


def _index(**prompts: tuple[int, ...]) -> tuple[PrefixIndex, dict[str, Holding]]:
    index = PrefixIndex()
    holdings = {name: Holding(1 << bit) for bit, name in enumerate(prompts)}
    for name, blocks in prompts.items():
        index.place(holdings[name], blocks, bytes_max=1 << 30, blocks_max=1000)
    return index, holdings


def test_depth_is_how_much_of_the_prompt_a_target_was_sent() -> None:
    index, holdings = _index(a=(1, 2, 3), b=(1, 9), c=())
    prompt = (1, 2, 3, 4)
    known = index.known(prompt)
    assert known == 3
    assert [index.depth(holding, prompt, known) for holding in holdings.values()] == [3, 1, 0]


def test_what_everybody_holds_is_shared() -> None:
    index, _ = _index(a=(1, 2, 3), b=(1, 2, 8))
    assert index.shared((1, 2, 3), index.known((1, 2, 3)), everybody=0b11) == 2
    assert index.shared((1, 2, 3), index.known((1, 2, 3)), everybody=0b111) == 0  # A third holds nothing.
    assert index.shared((7,), index.known((7,)), everybody=0b11) == 0


def test_the_least_recently_sent_end_of_a_prompt_is_forgotten_first() -> None:
    index, holdings = _index(a=())
    holding = holdings["a"]
    index.place(holding, (1, 2, 3), bytes_max=5 * 256, blocks_max=1000)
    index.place(holding, (7, 8, 9), bytes_max=5 * 256, blocks_max=1000)
    assert index.depth(holding, (1, 2, 3), 3) == 2
    assert index.depth(holding, (7, 8, 9), 3) == 3
    index.place(holding, (1,), bytes_max=5 * 256, blocks_max=1000)  # Used again: young.
    index.place(holding, (5, 6), bytes_max=5 * 256, blocks_max=1000)
    assert list(holding.blocks) == [8, 7, 1, 6, 5]
    assert holding.used_bytes == 5 * 256


def test_a_bound_on_blocks_holds_beside_the_bound_on_bytes() -> None:
    index, holdings = _index(a=())
    index.place(holdings["a"], (1, 2, 3), bytes_max=1 << 30, blocks_max=2)
    assert list(holdings["a"].blocks) == [2, 1]
    assert len(index) == 2


def test_a_target_that_lost_its_cache_holds_nothing_and_others_keep_theirs() -> None:
    index, holdings = _index(a=(1, 2), b=(1,))
    index.forget(holdings["a"])
    assert index.depth(holdings["a"], (1, 2), 2) == 0
    assert (index.mask(1), index.mask(2)) == (0b10, 0)
    assert holdings["a"].used_bytes == 0


@given(st.lists(st.tuples(st.integers(0, 2), st.lists(st.integers(0, 1), min_size=1, max_size=7)), max_size=40))
def test_the_index_agrees_with_a_plain_model_of_each_target(sent: list[tuple[int, list[int]]]) -> None:
    index = PrefixIndex()
    holdings = [Holding(1 << bit) for bit in range(3)]
    models: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(3)]
    for target, path in sent:
        blocks = _chained(path)
        index.place(holdings[target], blocks, bytes_max=1 << 30, blocks_max=8)
        model = models[target]
        for block in reversed(blocks):
            model.pop(block, None)
            model[block] = None
        while len(model) > 8:
            model.popitem(last=False)
    for holding, model in zip(holdings, models, strict=True):
        assert list(holding.blocks) == list(model)
    for _, path in sent:
        blocks = _chained(path)
        depths = [_depth(model, blocks) for model in models]
        known = index.known(blocks)
        assert known == max(depths)
        assert [index.depth(holding, blocks, known) for holding in holdings] == depths
        assert index.shared(blocks, known, everybody=0b111) == min(depths)
    held = {block for model in models for block in model}
    assert len(index) == len(held)
    for block in held:
        assert index.mask(block) == sum(1 << bit for bit, model in enumerate(models) if block in model)


def _chained(path: list[int]) -> tuple[int, ...]:
    """Block ids that stand for everything up to them, as hashes do."""
    return tuple(int("1" + "".join(map(str, path[: length + 1]))) for length in range(len(path)))


def _depth(model: OrderedDict[int, None], blocks: tuple[int, ...]) -> int:
    depth = 0
    while depth < len(blocks) and blocks[depth] in model:
        depth += 1
    return depth


def test_heat_is_the_share_of_recent_requests() -> None:
    heat = Heat()
    assert heat.share(7) == 0.0
    for key in (7, 7, 7, 8):
        heat.note(key)
    assert heat.share(7) == 0.75
    assert heat.share(9) == 0.0


def test_heat_forgets_and_stays_small() -> None:
    heat = Heat()
    for _ in range(500):
        heat.note(7)
    for key in range(100_000, 110_000):
        heat.note(key)
    assert heat.share(7) < 0.01
    assert len(heat) <= 1024
