"""Ours beside python-hyper's h2: the same bytes, the same events, the same faults, or a row in DIFFERENCES.

Random legal conversations must agree in every step. In random spoilt ones, and in one sample of each row, the two may
differ as the rows say and in no other way. `sentence` is RFC 9113's unless it names another (its
references to sections 5.4.1 and 5.4.2 are left out).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

import pytest
from h2.exceptions import ProtocolError
from hypothesis import HealthCheck, example, given
from hypothesis import settings as effort

from tests.wire.http2.conversations import Command, legal, spoilt
from tests.wire.http2.conversations import Step as Said
from tests.wire.http2.oracle import Both, Step
from tests.wire.http2.raw_peer import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    GET,
    HEADERS,
    OK,
    PADDED,
    PING,
    POST,
    PRIORITY,
    PUSH_PROMISE,
    SETTINGS,
    Verdict,
    block,
    content,
    frame,
    goaway,
    head,
    rst,
    settings,
    window_update,
)
from wire.http1 import Field

LATE: list[Field] = [(b"grpc-status", b"0")]
ASK = head(1, POST, end=False)


@dataclass(frozen=True)
class Difference:
    """`ours` and `theirs`: (scope, code), or () for no fault; the patterns match the reasons that the two give."""

    name: str
    sentence: str
    sample: list[Said]
    ours: tuple[object, ...]
    theirs: tuple[object, ...]
    our_why: str = ""
    their_why: str = ""
    kinds: frozenset[int] = field(default_factory=frozenset)  # Frames that may lead to it; none named: any.

    def explains(self, both: Both, step: Step, kind: int) -> bool:
        return (
            _scope(step.verdict) == self.ours
            and _scope(step.verdict_there) == self.theirs
            and (not self.ours or re.search(self.our_why, both.ours.why) is not None)
            and re.search(self.their_why, both.theirs.why) is not None
            and (not self.kinds or kind in self.kinds)
        )


def _scope(verdict: Verdict) -> tuple[object, ...]:
    return (verdict[0], verdict[-1]) if verdict else ()


STREAM = ("stream", 1)
CONNECTION = ("connection", 1)
# What h2 says of header lists and contents that are malformed.
MALFORMED = (
    "Trailers must have END_STREAM|pseudo-header|Header block|header block|Illegal character|zero length|uppercase"
    "|empty :path|InvalidBodyLengthError|Connection-specific|Invalid value for TE|whitespace|forbidden"
)

CONTINUATION_RULE = (
    '6.10: "A CONTINUATION frame MUST be preceded by a HEADERS, PUSH_PROMISE or CONTINUATION frame without the '
    "END_HEADERS flag set. A recipient that observes violation of this rule MUST respond with a connection error "
    'of type PROTOCOL_ERROR." h2 looks at the stream first.'
)

DIFFERENCES = [
    Difference(
        "malformed",
        '8.1.1: "Malformed requests or responses that are detected MUST be treated as a stream error of '
        'type PROTOCOL_ERROR."',
        [head(1, [*GET, (b"connection", b"close")])],
        STREAM,
        CONNECTION,
        their_why=MALFORMED,
    ),
    Difference(
        "compression",
        '4.3: "A decoding error in a field block MUST be treated as a connection error of type COMPRESSION_ERROR."',
        [frame(HEADERS, END_HEADERS, 1, b"\x80")],
        ("connection", 9),
        CONNECTION,
        their_why="Error decoding header block",
    ),
    Difference(
        "rst_on_idle",
        '6.4: "If a RST_STREAM frame identifying an idle stream is received, the recipient MUST treat this as a '
        'connection error of type PROTOCOL_ERROR."',
        [ASK, rst(3)],
        CONNECTION,
        (),
        our_why="RST_STREAM on idle stream",
    ),
    Difference(
        "ended",
        '5.1, closed: "An endpoint MAY treat receipt of any other type of frame on a closed stream as a connection '
        "error "
        '(Section 5.4.1) of type STREAM_CLOSED, except as noted below."',
        [head(5), content(3)],
        ("connection", 5),
        ("stream", 5),
        our_why="which has ended",
    ),
    Difference(
        "priority_size",
        '6.3: "A PRIORITY frame with a length other than 5 octets MUST be treated as a stream error of '
        'type FRAME_SIZE_ERROR."',
        [ASK, frame(PRIORITY, 0, 1, bytes(4))],
        ("stream", 6),
        ("connection", 6),
        our_why="PRIORITY of",
    ),
    Difference(
        "depends_on_itself",
        'RFC 7540 5.3.1: "A stream cannot depend on itself. An endpoint MUST treat this as a stream error '
        'of type PROTOCOL_ERROR."',
        [ASK, frame(PRIORITY, 0, 1, struct.pack(">IB", 1, 0))],
        STREAM,
        CONNECTION,
        their_why="may not depend on itself",
    ),
    Difference(
        "stream_window",
        '6.9: "A receiver MAY respond with a stream error or connection error of type '
        'FLOW_CONTROL_ERROR if it is unable to accept a frame."',
        [ASK, *[content(1, bytes(16_384))] * 6, content(1, bytes(1_697))],
        ("stream", 3),
        ("connection", 3),
        our_why="beyond the stream's window",
    ),
    Difference(
        "settings_ack_size",
        '6.5: "Receipt of a SETTINGS frame with the ACK flag set and a length field value other than 0 MUST be '
        "treated as "
        'a connection error of type FRAME_SIZE_ERROR."',
        [frame(SETTINGS, ACK, 0, bytes(6))],
        ("connection", 6),
        CONNECTION,
        our_why="ACK of SETTINGS",
    ),
    Difference(
        "between_continuations",
        '6.2: "A receiver MUST treat the receipt of any other type of frame or a frame on a different stream as a '
        'connection error of type PROTOCOL_ERROR." h2 looks at the size of that frame first.',
        [frame(HEADERS, 0, 1, block(GET)), frame(PING, 0, 0, b"")],
        CONNECTION,
        ("connection", 6),
        our_why="inside the header block",
    ),
    Difference(
        "push_promise_size",
        '8.4: "A client cannot push. Thus, servers MUST treat the receipt of a PUSH_PROMISE frame as a connection '
        "error "
        '(Section 5.4.1) of type PROTOCOL_ERROR." h2 looks at the size of that frame first.',
        [frame(PUSH_PROMISE, END_HEADERS, 1, b"")],
        CONNECTION,
        ("connection", 6),
        our_why="PUSH_PROMISE from a client",
    ),
    Difference(
        "push_promise",
        '8.4: "A client cannot push. Thus, servers MUST treat the receipt of a PUSH_PROMISE frame as a connection '
        "error "
        '(Section 5.4.1) of type PROTOCOL_ERROR." h2 waits for the rest of the block.',
        [frame(PUSH_PROMISE, 0, 1, struct.pack(">I", 2))],
        CONNECTION,
        (),
        our_why="PUSH_PROMISE from a client",
    ),
    Difference(
        "after_goaway",
        '6.8: "Once the GOAWAY is sent, the sender will ignore frames sent on streams initiated by the receiver if the '
        'stream has an identifier higher than the included last stream identifier." Its own streams go on.',
        [ASK, goaway(0), content(1)],
        (),
        CONNECTION,
        their_why=r"state ConnectionState\.CLOSED",
    ),
    Difference(
        "altsvc",
        '4.1: "Implementations MUST ignore and discard frames of unknown types." We do not know ALTSVC, h2 does.',
        [frame(0xA, 0, 0, b"")],
        (),
        ("connection", 6),
        kinds=frozenset({0xA}),
    ),
    Difference(
        "head_all_padding",
        '6.2: "Padding that exceeds the size remaining for the field block fragment MUST be treated as a '
        'PROTOCOL_ERROR." '
        "Padding that leaves nothing does not exceed it.",
        [frame(HEADERS, PADDED, 1, b"\x01\0"), frame(CONTINUATION, END_HEADERS, 1, block(GET))],
        (),
        CONNECTION,
        their_why="invalid padding",
        kinds=frozenset({HEADERS}),
    ),
    Difference(
        "head_of_nothing_but_padding",
        "6.2 as above; what is left is then malformed for want of :method, which costs the stream (8.1.1).",
        [frame(HEADERS, PADDED | END_HEADERS, 1, b"\x01\0")],
        STREAM,
        CONNECTION,
        their_why="invalid padding",
        kinds=frozenset({HEADERS}),
    ),
    Difference(
        "reserved_bit_of_window_update",
        '6.9: the first bit of an increment is reserved; 4.1: "A reserved 1-bit field. The semantics of this bit are '
        'undefined, and the bit MUST remain unset (0x00) when sending and MUST be ignored when receiving."',
        [frame(8, 0, 0, struct.pack(">I", 0x8000_0001))],
        (),
        CONNECTION,
        their_why="non-compliant data",
        kinds=frozenset({8}),
    ),
    Difference(
        "window_update_by_zero",
        '6.9: "A receiver MUST treat the receipt of a WINDOW_UPDATE frame with a flow-control window increment of 0 '
        "as a "
        'stream error of type PROTOCOL_ERROR."',
        [ASK, window_update(1, 0)],
        STREAM,
        CONNECTION,
        their_why="non-compliant data",
        kinds=frozenset({8}),
    ),
    Difference(
        "reserved_bit_of_goaway",
        "6.8: the first bit of the last stream identifier is reserved: see above.",
        [goaway(0x8000_0003)],
        (),
        (),
        kinds=frozenset({7}),
    ),
    Difference(
        "continuation_on_ended",
        CONTINUATION_RULE,
        [head(5), frame(CONTINUATION, 0, 3)],
        CONNECTION,
        ("connection", 5),
        our_why="CONTINUATION without a header block",
    ),
    Difference(
        "continuation_on_reset",
        CONTINUATION_RULE,
        [head(1), rst(1), head(3), frame(CONTINUATION, 0, 1)],
        CONNECTION,
        ("stream", 5),
        our_why="CONTINUATION without a header block",
    ),
    Difference(
        "stricter_heads",
        "8.2.1: recipients may be stricter about characters; 8.3.1 on :path and :authority. h2 lets pass what HTTP/1.1 "
        "behind us would not: a space in :path, bytes that no authority has, names that are no tokens.",
        [head(1, [(name, b"/a b" if name == b":path" else value) for name, value in GET])],
        STREAM,
        (),
        kinds=frozenset({HEADERS, CONTINUATION}),
    ),
    Difference(
        "too_many_streams",
        '5.1.2: "An endpoint that receives a HEADERS frame that causes its advertised concurrent stream limit to be '
        'exceeded MUST treat this as a stream error of type PROTOCOL_ERROR or REFUSED_STREAM."',
        [head(2 * number + 1, POST, end=False) for number in range(9)],
        ("stream", 7),
        CONNECTION,
        their_why="TooManyStreamsError",
    ),
    Difference(
        "after_our_reset",
        '5.1, closed: "An endpoint MUST minimally process and then discard any frames it receives in this state." h2 '
        "resets the stream once more.",
        [ASK, Command("reset", 1), content(1)],
        (),
        ("stream", 5),
        kinds=frozenset({DATA, HEADERS, CONTINUATION}),
    ),
]


def run(both: Both, said: Said) -> Step:
    if isinstance(said, bytes):
        return both.step(said)
    theirs = both.theirs.connection
    ours = both.ours.connection
    if said.stream_id in both.left_out or not both.ours.knows(said.stream_id):
        both.left_out.add(said.stream_id)  # The spoilt frame was what would have opened it by now.
        return Step([], [], [], [])
    fields = {"answer": OK, "late": LATE}.get(said.what)
    try:
        if fields is not None:
            theirs.send_headers(said.stream_id, fields, end_stream=said.end)
        elif said.what == "body":
            theirs.send_data(said.stream_id, b"b" * said.size, end_stream=said.end)
        else:
            theirs.reset_stream(said.stream_id, 8)
    except ProtocolError as error:
        both.theirs.why = f"{type(error).__name__}: {error}"
    if fields is not None:
        ours.send_headers(said.stream_id, fields, end_stream=said.end)
    elif said.what == "body":
        ours.send_data(said.stream_id, b"b" * said.size, end_stream=said.end)
    else:
        ours.reset(said.stream_id, 8)
    return Step([], both.ours.sent(), [], both.theirs.sent())


def explained(both: Both, step: Step, said: Said) -> Difference | None:
    kind = said[3] if isinstance(said, bytes) else -1
    return next((row for row in DIFFERENCES if row.explains(both, step, kind)), None)


QUICK = [HealthCheck.too_slow, HealthCheck.data_too_large]


# The same examples each time: a difference that nobody knew of is for the fuzzer to find, not for somebody's change.
@pytest.mark.slow
@effort(max_examples=150, deadline=None, suppress_health_check=QUICK, derandomize=True)
@given(legal())
def test_in_legal_conversations_both_hear_and_say_the_same(steps: list[Said]) -> None:
    both = Both()
    both.begin()
    for said in steps:
        step = run(both, said)
        assert step.agrees, (said, step)
        assert step.verdict == () or isinstance(said, Command)
        assert both.ours.why == both.theirs.why == ""


@pytest.mark.slow
@effort(max_examples=400, deadline=None, suppress_health_check=QUICK, derandomize=True)
@given(spoilt())
@example([head(1), rst(1), rst(1), window_update(1, 5), content(1)])
@example([head(5), rst(3), window_update(3, 1), head(3)])
def test_in_spoilt_conversations_both_find_the_same_faults_or_a_row_says_why(steps: list[Said]) -> None:
    both = Both()
    both.begin()
    for said in steps:
        step = run(both, said)
        if not step.agrees:
            dead = "ConnectionState.CLOSED" in both.theirs.why  # After a GOAWAY of the client: see the row.
            assert dead or explained(both, step, said), (said, step, both.ours.why, both.theirs.why)
            return  # From here on the two are in different states.
        if step.verdict[:1] == ("connection",):
            return


@pytest.mark.parametrize("row", DIFFERENCES, ids=lambda row: row.name)
def test_each_row_is_a_difference_that_exists(row: Difference) -> None:
    both = Both()
    both.begin()
    *before, last = row.sample
    for said in before:
        step = run(both, said)
        if not step.agrees:
            break
    else:
        said = last
        step = run(both, said)
    assert not step.agrees
    assert row.explains(both, step, said[3] if isinstance(said, bytes) else -1), (step, both.theirs.why)


# RFC cases in which the two agree, as conversations of frames; the last one is the fault.
AGREED: list[tuple[str, list[bytes], Verdict]] = [
    ("5.1 DATA on idle", [content(1)], ("connection", 1)),
    ("5.1 WINDOW_UPDATE on idle", [window_update(1, 1)], ("connection", 1)),
    ("5.1 CONTINUATION on idle", [frame(CONTINUATION, END_HEADERS, 1, block(GET))], ("connection", 1)),
    ("5.1 DATA after END_STREAM", [head(1), content(1)], ("stream", 1, 5)),
    ("5.1 HEADERS after END_STREAM", [head(1), head(1)], ("stream", 1, 5)),
    ("5.1 DATA after RST_STREAM", [ASK, rst(1), content(1)], ("stream", 1, 5)),
    ("5.1 HEADERS after RST_STREAM", [head(1), rst(1), head(1)], ("stream", 1, 5)),
    ("5.1.1 even", [head(2)], ("connection", 1)),
    ("5.1.1 decreasing", [head(5), head(3)], ("connection", 1)),
    ("6.1 padding", [ASK, frame(DATA, PADDED, 1, b"\x04abc")], ("connection", 1)),
    ("6.1 no padding length", [ASK, frame(DATA, PADDED, 1, b"")], ("connection", 6)),
    ("6.2 padding", [frame(HEADERS, END_HEADERS | PADDED, 1, b"\xff" + block(GET))], ("connection", 1)),
    ("6.4 size", [head(1), frame(3, 0, 1, bytes(3))], ("connection", 6)),
    ("6.5 size", [frame(SETTINGS, 0, 0, bytes(5))], ("connection", 6)),
    ("6.5 stream", [frame(SETTINGS, 0, 1)], ("connection", 1)),
    ("6.5.2 push", [settings(push=2)], ("connection", 1)),
    ("6.5.2 window", [settings(window=2**31)], ("connection", 3)),
    ("6.5.2 frame", [settings(frame=16_383)], ("connection", 1)),
    ("8441 3 connect", [settings(connect=2)], ("connection", 1)),
    ("6.7 size", [frame(PING, 0, 0, b"1")], ("connection", 6)),
    ("6.7 stream", [frame(PING, 0, 1, bytes(8))], ("connection", 1)),
    ("6.8 size", [frame(7, 0, 0, b"1")], ("connection", 6)),
    ("6.9 size", [frame(8, 0, 0, b"1")], ("connection", 6)),
    ("6.9 zero", [window_update(0, 0)], ("connection", 1)),
    ("6.9.1 connection", [window_update(0, 2**31 - 1)], ("connection", 3)),
    ("6.9.1 stream", [head(1), window_update(1, 2**31 - 1)], ("stream", 1, 3)),
    ("4.2 size", [frame(DATA, 0, 1, bytes(16_385))], ("connection", 6)),
    ("4.3 interleaved", [frame(HEADERS, 0, 1, block(GET)), frame(PING, 0, 0, bytes(8))], ("connection", 1)),
    ("8.4 push", [head(1), frame(PUSH_PROMISE, END_HEADERS, 1, struct.pack(">I", 2) + block(GET))], ("connection", 1)),
]


@pytest.mark.parametrize(("section", "frames", "verdict"), AGREED, ids=[row[0] for row in AGREED])
def test_both_agree_on_the_cases_of_the_rfc(section: str, frames: list[bytes], verdict: Verdict) -> None:
    both = Both()
    both.begin()
    *before, last = frames
    for piece in before:
        assert both.step(piece).verdict == ()
    step = both.step(last)
    assert step.verdict == step.verdict_there == verdict
