from __future__ import annotations

import pytest

from infermesh.core.trust.refusal import shown, span


def test_text_of_a_peer_cannot_forge_a_log_line_or_hide_bytes() -> None:
    assert shown("a\nlevel=error \x1b[2J\u202e") == "'a\\nlevel=error \\x1b[2J\\u202e'"


def test_text_of_a_peer_is_cut_to_a_stated_length() -> None:
    assert shown("x" * 120) == "'" + "x" * 120 + "'"
    text = shown("x" * 2000)
    assert text.endswith("... (2000 characters)")
    assert len(text) < 160


@pytest.mark.parametrize(
    ("length_s", "words"),
    [(0, "0 s"), (119, "119 s"), (120, "2.0 min"), (7200, "2.0 h"), (90_000, "25.0 h"), (864_000, "10.0 days")],
)
def test_a_length_of_time_is_told_in_the_largest_fitting_unit(length_s: float, words: str) -> None:
    assert span(length_s) == words
