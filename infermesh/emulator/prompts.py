"""A stand-in for a tokenizer and for a model: what a prompt costs, which blocks it shares, what is answered.

Deterministic, and not language: four bytes of prompt make a token, a block of tokens is named by the hash of
its bytes chained to the block before, and the answer to a prompt is a tag taken from its hash, then the numbers
1, 2, 3, ... one a token. So a test can tell whether an answer is whole, in order, and the answer to its prompt.
"""

from __future__ import annotations

import xxhash

BYTES_PER_TOKEN = 4


def count_tokens(prompt: bytes) -> int:
    return max(1, -(-len(prompt) // BYTES_PER_TOKEN))


def block_hashes(prompt: bytes, block_tokens: int, seed: int) -> tuple[int, ...]:
    """Chained hashes of the whole blocks of this prompt, first block first."""
    size = block_tokens * BYTES_PER_TOKEN
    hashes = []
    link = seed
    for start in range(0, len(prompt) - size + 1, size):
        link = xxhash.xxh3_64_intdigest(prompt[start : start + size], link)
        hashes.append(link)
    return tuple(hashes)


def answer_tag(prompt: bytes, seed: int) -> bytes:
    """The first token of the answer: four hexadecimal digits."""
    return b"%04x" % (xxhash.xxh3_64_intdigest(prompt, seed) & 0xFFFF)


def numbered_token(index: int) -> bytes:
    """The token at `index` of any answer, from 1 on."""
    return _NUMBERED[index] if index < len(_NUMBERED) else b" %d" % index


def answer_text(prompt: bytes, tokens: int, seed: int = 0) -> str:
    """The whole answer of `tokens` tokens, for comparison with what a client received."""
    return (answer_tag(prompt, seed) + b"".join(map(numbered_token, range(1, tokens)))).decode()


def embedding(prompt: bytes, seed: int) -> list[float]:
    """A vector of unit length that equal texts share."""
    signs = xxhash.xxh3_64_intdigest(prompt, seed)
    scale = EMBEDDING_SIZE**-0.5
    return [scale if signs >> bit & 1 else -scale for bit in range(EMBEDDING_SIZE)]


EMBEDDING_SIZE = 64
_NUMBERED = tuple(b" %d" % index for index in range(4_096))
