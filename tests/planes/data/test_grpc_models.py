"""The model's name in the first bytes of a call, and how often it is looked for."""

from __future__ import annotations

import pytest

from infermesh.planes.data.grpc_models import PEEK_BYTES_MAX, Unnamed, next_look, read_model


def message(body: bytes, length: int | None = None) -> bytes:
    return b"\x00" + (len(body) if length is None else length).to_bytes(4, "big") + body


def test_the_name_is_found_once_it_has_come_whole() -> None:
    data = message(b"\x10\x05\x0a\x05llama\x12\x011")
    assert [read_model(data[:size], (1,), None, whole=False) for size in (0, 4, 9, 13)] == [None] * 4
    assert read_model(data[:14], (1,), None, whole=False) == "llama"
    assert read_model(data, (1,), None, whole=True) == "llama"
    with pytest.raises(Unnamed):
        read_model(data[:13], (1,), None, whole=True)


def test_a_message_that_comes_byte_by_byte_is_looked_into_a_few_times_and_at_its_end() -> None:
    # Found by fuzzing: a look at 64 KiB costs 20 ms, and one at each byte of them ten minutes.
    for length in (0, 1, 100, 5_000, PEEK_BYTES_MAX, 1 << 20):
        data = message(b"\x10\x00" * (min(length, PEEK_BYTES_MAX) // 2 + 1), length)
        looks = []
        look_at = 0
        for size in range(1, len(data) + 1):
            if size >= look_at:
                looks.append(size)
                look_at = next_look(data[:size])
        assert len(looks) <= 22
        assert 5 + min(length, PEEK_BYTES_MAX) in looks
