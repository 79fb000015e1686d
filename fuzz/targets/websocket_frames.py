"""Invariant: frames give the same events however cut, as `websockets` reads them; messages keep their limit.

The first byte of the input chooses compression (agreed or not, with the client's window kept or not). Nothing is
raised; after a close or a failure nothing more is read. What we send, deflated or not, `websockets` reads back.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Hashable, Iterator, Sequence

from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Protocol, Side

from fuzz.target import Target, agreed, demand
from wire.websocket import (
    CloseCode,
    CloseReceived,
    DeflateConfig,
    DeflateTerms,
    Event,
    MessageReceived,
    PeerFailed,
    PingReceived,
    PongReceived,
    WebSocketLimits,
    WebSocketMachine,
)

MESSAGE_BYTES_MAX = 500


def terms_of(data: bytes) -> DeflateTerms | None:
    choice = data[0] % 3 if data else 0
    if not choice:
        return None
    keep = choice == 2
    return DeflateTerms(
        config=DeflateConfig(keep_our_window=keep, keep_their_window=keep, message_bytes_min=8),
        server_no_context_takeover=not keep,
        client_no_context_takeover=not keep,
        server_max_window_bits=None,
    )


def read(pieces: Sequence[bytes], terms: DeflateTerms | None) -> list[Event]:
    machine = WebSocketMachine(WebSocketLimits(message_bytes_max=MESSAGE_BYTES_MAX), terms)
    events: list[Event] = []
    for piece in pieces:
        events += machine.receive(piece, 0.0)
        while machine.unread:
            events += machine.receive(b"", 0.0)
        demand(machine.message_len <= MESSAGE_BYTES_MAX, "more kept than a message", machine.message_len)
    # What breaks a rule may be seen sooner or later by the cut, and told in other words: the code is what counts.
    return [PeerFailed(_code(event, terms), "") if isinstance(event, PeerFailed) else event for event in events]


def _code(event: PeerFailed, terms: DeflateTerms | None) -> int:
    """zlib reads ahead: what is one byte too long and then broken is told as either, by the cut."""
    either = terms is not None and event.code == CloseCode.BAD_PAYLOAD
    return int(CloseCode.TOO_BIG) if either else event.code


def check(data: bytes) -> Hashable:
    terms = terms_of(data)
    events = agreed(data[1:], lambda pieces: read(pieces, terms))
    for event in events[:-1]:
        demand(not isinstance(event, CloseReceived | PeerFailed), "read on after the end", events)
    for event in events:
        if isinstance(event, MessageReceived):
            demand(len(event.data) <= MESSAGE_BYTES_MAX, "a message over the limit", len(event.data))
            if event.text:
                event.data.decode()
        elif isinstance(event, PingReceived | PongReceived):
            demand(len(event.payload) <= 125, "a control frame over its limit", event)
    _as_websockets_reads(data[1:], terms, events)
    _is_read_back([event for event in events if isinstance(event, MessageReceived)][:4], terms)
    return frozenset(map(_label, events)), terms is None


def _label(event: Event) -> Hashable:
    match event:
        case MessageReceived():
            return "text" if event.text else "binary"
        case CloseReceived() | PeerFailed():
            return type(event).__name__, min(event.code, 3000)
        case _:
            return type(event).__name__


def _as_websockets_reads(data: bytes, terms: DeflateTerms | None, events: list[Event]) -> None:
    # Its limit counts a ping between the frames of a message too: roomy here, and ours is checked by itself.
    protocol = Protocol(Side.SERVER, state=OPEN, max_size=2 * MESSAGE_BYTES_MAX)
    if terms is not None:
        protocol.extensions = [_their_deflate(terms, server=True)]
    protocol.receive_data(data)
    theirs, text_failed = _joined([frame for frame in protocol.events_received() if isinstance(frame, Frame)])
    failed = text_failed or isinstance(protocol.parser_exc, ProtocolError | PayloadTooBig | UnicodeDecodeError)
    ours = [event for event in events if not isinstance(event, PeerFailed)]
    if not events or not isinstance(events[-1], PeerFailed):
        if protocol.parser_exc is not None and _known_difference(protocol.parser_exc):
            return
        if failed:  # On half a header, perhaps; wsproto judges whole ones, and these bytes end any.
            later = read([data + bytes(14)], terms)
            demand(
                later and isinstance(later[-1], PeerFailed),
                "websockets refuses what we read",
                protocol.parser_exc,
                events,
            )
            return
        demand(_same(theirs, ours, terms), "websockets reads other events", theirs, ours)
        return
    # They may have seen more before their own refusal (we cut within a message), or take what is over a limit of ours.
    demand(_same(theirs[: len(ours)], ours, terms), "websockets reads other events before the end", theirs, ours)
    stricter = events[-1].code in (CloseCode.TOO_BIG, CloseCode.POLICY, CloseCode.BAD_PAYLOAD)
    demand(failed or stricter or _pending(protocol), "refused by us alone", events, theirs)


def _same(theirs: Sequence[Event], ours: Sequence[Event], terms: DeflateTerms | None) -> bool:
    """websockets drops what follows a final block in a compressed message; RFC 7692 section 7.2.3.4 goes on."""
    return len(theirs) == len(ours) and all(
        a == b
        or (
            terms is not None
            and isinstance(a, MessageReceived)
            and isinstance(b, MessageReceived)
            and (b.data.startswith(a.data) and a.text == b.text)
        )
        for a, b in zip(theirs, ours, strict=True)
    )


def _known_difference(error: Exception) -> bool:
    """websockets wants no close frame inside a message; RFC 6455 section 5.4 allows any control frame there."""
    return str(error) == "incomplete fragmented message"


def _pending(protocol: Protocol) -> bool:
    """websockets waits for the whole of a frame before it judges some of its parts."""
    return protocol.parser_exc is None


def _joined(frames: list[Frame]) -> tuple[list[Event], bool]:
    """Their frames as our events; whether a text is not UTF-8, which their protocol leaves to the layer above."""
    events: list[Event] = []
    parts: list[bytes] = []
    text = False
    for frame in frames:
        data = bytes(frame.data)
        match frame.opcode:
            case Opcode.PING:
                events.append(PingReceived(data))
            case Opcode.PONG:
                events.append(PongReceived(data))
            case Opcode.CLOSE:
                code = int.from_bytes(data[:2], "big") if data else int(CloseCode.NO_CODE)
                events.append(CloseReceived(code, data[2:].decode("utf-8", "replace")))
            case _:
                if frame.opcode is not Opcode.CONT:
                    text = frame.opcode is Opcode.TEXT
                parts.append(data)
                if frame.fin:
                    message, parts = b"".join(parts), []
                    try:
                        if text:
                            message.decode()
                    except UnicodeDecodeError:
                        return events, True
                    events.append(MessageReceived(message, text))
    return events, False


def _is_read_back(messages: list[MessageReceived], terms: DeflateTerms | None) -> None:
    machine = WebSocketMachine(WebSocketLimits(), terms)
    client = Protocol(Side.CLIENT, state=OPEN)
    if terms is not None:
        client.extensions = [_their_deflate(terms, server=False)]
    for message in messages:
        sent = machine.text(message.data) if message.text else machine.binary(message.data)
        client.receive_data(sent)
        demand(client.parser_exc is None, "websockets refuses what we send", client.parser_exc, message)
        theirs, _ = _joined([frame for frame in client.events_received() if isinstance(frame, Frame)])
        demand(theirs == [message], "websockets reads another message", theirs, message)


def _their_deflate(terms: DeflateTerms, *, server: bool) -> PerMessageDeflate:
    ours, theirs = terms.server_no_context_takeover, terms.client_no_context_takeover
    remote, local = (theirs, ours) if server else (ours, theirs)
    return PerMessageDeflate(
        remote_no_context_takeover=remote,
        local_no_context_takeover=local,
        remote_max_window_bits=15,
        local_max_window_bits=15,
    )


def frame(opcode: int, payload: bytes, *, fin: bool = True, rsv: int = 0, mask: bytes = b"\x01\x02\x03\x04") -> bytes:
    first = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if len(payload) < 126:
        head = first + bytes([0x80 | len(payload)])
    else:
        head = first + b"\xfe" + len(payload).to_bytes(2, "big")
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def deflated(data: bytes) -> bytes:
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]


def changed_frames(data: bytes, rng: random.Random) -> bytes:
    """A frame put before or behind the rest, its mask and length right; at times something in it is not."""
    payload = rng.choice(_PAYLOADS)
    rsv = 0
    if rng.random() < 0.3:
        payload, rsv = deflated(payload), 4
        if rng.random() < 0.2 and payload:
            at = rng.randrange(len(payload))
            payload = payload[:at] + bytes([rng.randrange(256)]) + payload[at + 1 :]
    elif rng.random() < 0.05:
        rsv = rng.randrange(8)
    opcode = rng.choice((0, 0, 1, 1, 2, 8, 9, 10, rng.randrange(16)))
    if opcode >= 8 and rng.random() < 0.9:
        payload = payload[:125]
    at = rng.randrange(len(payload) + 1)
    parts = [payload[:at], payload[at:]] if opcode in (1, 2) and rng.random() < 0.4 else [payload]
    made = frame(opcode, parts[0], fin=len(parts) == 1 and rng.random() < 0.9, rsv=rsv)
    if len(parts) == 2:
        made += frame(9, b"between") if rng.random() < 0.3 else b""
        made += frame(0, parts[1])
    return data[:1] + (made + data[1:] if rng.random() < 0.5 else data[1:] + made)


_PAYLOADS = (
    b"",
    b"hello",
    "h\u00e9llo \U0001f600".encode(),
    b"\xed\xa0\x80",
    b"\xf0\x9f\x98",
    b"\x03\xe8",
    b"\x03\xe8bye",
    b"\x03\xed",
    b"\x0b\xb8x",
    b"\x03",
    b"\x00\x00\xff",
    b"a" * 125,
    b"a" * 126,
    b"a" * 499,
    b"a" * 500,
    b"a" * 501,
    b"ab" * 5000,
    b"\x03\x00",
)


def seeds() -> Iterator[bytes]:
    """RFC 6455 section 5.7 and RFC 7692 section 7.2.3, as a client sends them."""
    yield b"\x00\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"
    yield b"\x00" + frame(1, b"Hel", fin=False) + frame(9, b"Hello") + frame(0, b"lo") + frame(8, b"\x03\xe8")
    yield b"\x00" + frame(2, b"x" * 256) + frame(10, b"") + frame(8, b"")
    yield b"\x01" + frame(1, bytes.fromhex("f248cdc9c90700"), rsv=4) + frame(1, bytes.fromhex("f348cdc9c90700"), rsv=4)
    yield b"\x02" + frame(1, bytes.fromhex("f248cdc9c90700"), rsv=4) + frame(1, bytes.fromhex("f200110000"), rsv=4)
    yield b"\x01" + frame(1, bytes.fromhex("f248"), fin=False, rsv=4) + frame(0, bytes.fromhex("cdc9c90700"))
    yield b"\x01" + frame(2, deflated(b"\x00" * 100_000), rsv=4)
    yield b"\x00\x82\xff\x00\x00\x00\x04\x00\x00\x00\x00\x01\x02\x03\x04"


TARGET = Target(
    check=check,
    seeds=seeds,
    covers=("wire.websocket",),
    words=(b"\x81\x80\x00\x00\x00\x00", b"\x88\x82\x00\x00\x00\x00\x03\xe8", b"\xfe\x00\x7e", b"\xff" + b"\x00" * 8),
    mutate=changed_frames,
    input_bytes_max=1500,
)
