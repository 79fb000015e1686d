"""The stand-in for a tokenizer and a model."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from infermesh.emulator.prompts import (
    answer_text,
    block_hashes,
    count_tokens,
    embedding,
    numbered_token,
)


def test_four_bytes_are_a_token_and_nothing_is_one_too() -> None:
    assert [count_tokens(b"x" * size) for size in (0, 1, 4, 5, 8)] == [1, 1, 1, 2, 2]


@given(shared=st.integers(0, 5), first=st.binary(max_size=300), second=st.binary(max_size=300))
def test_prompts_share_exactly_the_blocks_of_their_common_beginning(shared: int, first: bytes, second: bytes) -> None:
    beginning = b"0123456789abcdef" * shared
    left = block_hashes(beginning + b"L" + first, block_tokens=4, seed=7)
    right = block_hashes(beginning + b"R" + second, block_tokens=4, seed=7)
    assert left[:shared] == right[:shared]
    assert not set(left[shared:]) & set(right[shared:])
    assert len(left) == (16 * shared + 1 + len(first)) // 16


def test_blocks_are_chained_so_that_equal_bytes_elsewhere_are_other_blocks() -> None:
    first, second = block_hashes(b"sixteen bytes ok" * 2, block_tokens=4, seed=0)
    assert first != second


def test_another_seed_gives_other_blocks() -> None:
    assert block_hashes(b"x" * 64, 16, seed=1) != block_hashes(b"x" * 64, 16, seed=2)


def test_an_answer_is_its_prompts_tag_and_the_numbers_in_order() -> None:
    text = answer_text(b"hello", 5)
    assert text[4:] == " 1 2 3 4"
    assert int(text[:4], 16) >= 0
    assert text[:4] != answer_text(b"other", 1)
    assert numbered_token(99_999) == b" 99999"


def test_an_embedding_has_unit_length_and_depends_on_the_text() -> None:
    vector = embedding(b"hello", 0)
    assert abs(sum(value * value for value in vector) - 1.0) < 1e-9
    assert vector != embedding(b"other", 0)
