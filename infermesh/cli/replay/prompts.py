"""Prompts with the lengths and the shared prefixes of a trace, and the request that carries each.

A block id of the trace becomes a fixed stretch of text, equal for equal ids and seed, so that servers find the
same prefixes that the recorded ones found. Text is three-letter words: four bytes a word with its blank, about
one token each for common tokenizers and exactly one for the emulated engine.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence

import msgspec

from infermesh.cli.replay.plan import Arrival
from infermesh.sim.trace import MOONCAKE_BLOCK_TOKENS

BYTES_PER_TOKEN = 4
# Texts kept: 2 KB each, and a trace repeats the ids of its latest conversations.
_TEXTS_KEPT_MAX = 4_096

_WORDS = (
    b"act add age ago air all and any arm art ask bad bag bar bed big bit box boy bus buy can cap car cat cup "
    b"cut day dog dry ear eat egg end eye far few fit fly for fun gas get god gun guy hat her him his hit hot "
    b"how ice job key kid law lay leg let lie lot low"
).split()
# One for each value of a byte.
_WORD_OF_BYTE = [word + b" " for word in (_WORDS[number % 64] for number in range(256))]


class PromptWriter:
    """Writes the prompt of an arrival. `scale` shortens prompts and their blocks alike."""

    def __init__(self, *, seed: int = 0, scale: float = 1.0) -> None:
        assert scale > 0.0
        self.seed = seed
        self.scale = scale
        self.block_tokens = max(1, round(MOONCAKE_BLOCK_TOKENS * scale))
        self._block = functools.lru_cache(maxsize=_TEXTS_KEPT_MAX)(self._write_block)

    def tokens(self, arrival: Arrival) -> int:
        return max(1, round(arrival.prompt_tokens * self.scale))

    def prompt(self, arrival: Arrival) -> bytes:
        """ASCII letters and blanks only, so that it needs no escaping in JSON."""
        length = self.tokens(arrival) * BYTES_PER_TOKEN
        shared = b"".join(map(self._block, arrival.block_ids))[:length]
        missing = (length - len(shared)) // BYTES_PER_TOKEN
        return shared + self.text(b"request %d" % arrival.number, missing) if missing else shared

    def text(self, identity: bytes, tokens: int) -> bytes:
        digest = hashlib.shake_128(b"%d %b" % (self.seed, identity)).digest(tokens)
        return b"".join([_WORD_OF_BYTE[byte] for byte in digest])

    def _write_block(self, block_id: int) -> bytes:
        return self.text(b"block %d" % block_id, self.block_tokens)


class RequestWriter:
    """Writes whole HTTP/1.1 requests of one kind to one server."""

    def __init__(
        self,
        prompts: PromptWriter,
        *,
        authority: str,
        base_path: str,
        model: str,
        chat: bool,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.prompts = prompts
        path = f"{base_path.rstrip('/')}/v1/{'chat/completions' if chat else 'completions'}"
        extra = "".join(f"{name}: {value}\r\n" for name, value in headers)
        self._head = (
            f"POST {path} HTTP/1.1\r\nhost: {authority}\r\ncontent-type: application/json\r\n"
            f"accept: text/event-stream\r\nuser-agent: infermesh-replay\r\n{extra}content-length: "
        ).encode()
        name = msgspec.json.encode(model)
        # ignore_eos is of vLLM and its kin: answers then have the lengths of the trace.
        self._before = b'{"model":%b,"stream":true,"stream_options":{"include_usage":true},"ignore_eos":true,' % name
        self._before += b'"messages":[{"role":"user","content":"' if chat else b'"prompt":"'
        self._after = b'"}],"max_tokens":%d}' if chat else b'","max_tokens":%d}'

    def message(self, arrival: Arrival) -> bytes:
        prompt = self.prompts.prompt(arrival)
        after = self._after % arrival.output_tokens
        length = len(self._before) + len(prompt) + len(after)
        return b"".join((self._head, b"%d\r\n\r\n" % length, self._before, prompt, after))
