from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.errors import RemoteProtocolError
from wire.limits import SSE_EVENT_BYTES_MAX
from wire.sse import EventSplitter


def split(*pieces: bytes) -> list[bytes]:
    splitter = EventSplitter()
    return [event for piece in pieces for event in splitter.feed(piece)]


def test_each_event_gives_its_data() -> None:
    assert split(b'data: {"a":1}\n\ndata: [DONE]\n\n') == [b'{"a":1}', b"[DONE]"]


def test_an_event_may_come_in_pieces_and_is_given_when_it_ends() -> None:
    splitter = EventSplitter()
    assert splitter.feed(b"data: a") == []
    assert splitter.feed(b"b\n") == []
    assert splitter.feed(b"\ndata: c\n\nda") == [b"ab", b"c"]


def test_comments_and_other_fields_are_no_messages() -> None:
    assert split(b": ping\n\nevent: x\nid: 1\n\nevent: token\ndata: a\nretry: 3\n\n\n\n") == [b"a"]


def test_lines_of_data_are_joined() -> None:
    assert split(b"data: {\ndata:  }\ndata\n\ndata:x\n\n") == [b"{\n }\n", b"x"]


@pytest.mark.parametrize("end", [b"\r\n", b"\r", b"\n"])
def test_every_kind_of_line_end_is_read(end: bytes) -> None:
    text = b"data: a" + end + b"data: b" + end + end + b"data: c" + end + end
    assert split(text, b"\n" if end == b"\r" else b"") == [b"a\nb", b"c"]


@given(st.integers(1, 30))
def test_how_a_stream_is_split_makes_no_difference(size: int) -> None:
    text = b"data: a\r\n\r\n: c\r\n\r\ndata: b\n\ndata: c\rdata: d\r\rdata: e\n\n"
    assert split(*[text[at : at + size] for at in range(0, len(text), size)]) == [b"a", b"b", b"c\nd", b"e"]


def test_an_event_of_the_limit_is_taken_and_a_longer_one_refused() -> None:
    data = b"x" * (SSE_EVENT_BYTES_MAX - 6)
    splitter = EventSplitter()
    assert splitter.feed(b"data: " + data) == []
    assert splitter.feed(b"\n\n") == [data]
    with pytest.raises(RemoteProtocolError, match="event"):
        splitter.feed(b"data: " + data + b"x")
