"""Two servers side by side: ours, and python-hyper's `h2` as the oracle. Both are fed the same bytes and commands.

What each makes of them is put into one form: `heard`, what its caller is told, and `sent`, what leaves. WINDOW_UPDATE
is left out of what leaves, for each has its own rhythm of credit. Where the two differ for a reason, there is a table
in test_http2_oracle.py with the sentence of the RFC.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import h2.events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hpack import Decoder

from tests.wire.http2.raw_peer import (
    CONTINUATION,
    DATA,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    SETTINGS_ACK,
    Verdict,
    config,
    frames_of,
    settings,
    take_all,
)
from wire.http1 import Field
from wire.http2 import (
    ConnectionEnded,
    DataReceived,
    Event,
    GoawayReceived,
    HeadersReceived,
    Http2Connection,
    Role,
    SettingsReceived,
    StreamReset,
    TrailersReceived,
)

STREAMS_MAX: Final = 8
WINDOW_BYTES: Final = 100_000
CONNECTION_WINDOW_BYTES: Final = 300_000
LIST_BYTES_MAX: Final = 4_096

Heard = tuple[object, ...]


def _decoder() -> Decoder:
    """The client's, which lets its peer have the table that a spoilt SETTINGS may have offered."""
    decoder = Decoder()
    decoder.max_allowed_table_size = 0xFFFF_FFFF
    return decoder


class Ours:
    def __init__(self) -> None:
        self.connection = Http2Connection(
            config(
                Role.SERVER,
                streams_max=STREAMS_MAX,
                window_bytes=WINDOW_BYTES,
                connection_window_bytes=CONNECTION_WINDOW_BYTES,
                list_bytes_max=LIST_BYTES_MAX,
            ),
            0.0,
        )
        self.connection.start()
        self.why = ""
        self._decoder = _decoder()

    def feed(self, data: bytes) -> list[Heard]:
        events = self.connection.receive(data, 0.0)
        if events and isinstance(events[-1], ConnectionEnded):
            self.why = events[-1].why
        for event in events:
            if isinstance(event, StreamReset) and not event.remote:
                self.why = event.why
        return [heard for event in events for heard in _heard(event)]

    def knows(self, stream_id: int) -> bool:
        return stream_id in self.connection._streams

    def sent(self) -> list[Heard]:
        return _sent(take_all(self.connection), self._decoder)


def _heard(event: Event) -> list[Heard]:
    match event:
        case HeadersReceived():
            return [("head", event.stream_id, _plain(event.fields))] + [("end", event.stream_id)] * event.end_stream
        case TrailersReceived():
            return [("trailers", event.stream_id, event.fields), ("end", event.stream_id)]
        case DataReceived():
            data: list[Heard] = [("data", event.stream_id, event.data, event.flow_bytes)]
            return data + [("end", event.stream_id)] * event.end_stream
        case StreamReset():
            return [("reset", event.stream_id, int(event.code))] if event.remote else []
        case SettingsReceived():
            return [("settings", event.settings)]
        case GoawayReceived():
            return [("goaway", event.last_stream_id, event.code, event.debug)]
        case _:
            return []


class Theirs:
    """h2, told to announce what ours announces."""

    def __init__(self) -> None:
        self.connection = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        values = {
            SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS_MAX,
            SettingCodes.INITIAL_WINDOW_SIZE: WINDOW_BYTES,
            SettingCodes.MAX_HEADER_LIST_SIZE: LIST_BYTES_MAX,
        }
        self.connection.local_settings = Settings(client=False, initial_values=values)
        self.connection.max_inbound_frame_size = self.connection.local_settings.max_frame_size
        self.connection.initiate_connection()
        self.connection.increment_flow_control_window(CONNECTION_WINDOW_BYTES - 65_535)
        self.why = ""
        self._decoder = _decoder()

    def feed(self, data: bytes) -> list[Heard]:
        try:
            events = self.connection.receive_data(data)
        except ProtocolError as error:
            self.why = f"{type(error).__name__}: {error}"
            return []
        return [heard for event in events for heard in _told(event)]

    def sent(self) -> list[Heard]:
        return _sent(self.connection.data_to_send(), self._decoder)


def _told(event: h2.events.Event) -> list[Heard]:
    """The other's events in our form. End of a stream is an event of its own there too."""
    match event:
        case h2.events.RequestReceived():
            return [("head", event.stream_id, _plain(event.headers))]
        case h2.events.TrailersReceived():
            return [("trailers", event.stream_id, _plain(event.headers))]
        case h2.events.DataReceived():
            return [("data", event.stream_id, event.data, event.flow_controlled_length)]
        case h2.events.StreamEnded():
            return [("end", event.stream_id)]
        case h2.events.StreamReset():
            return [("reset", event.stream_id, int(event.error_code or 0))] if event.remote_reset else []
        case h2.events.RemoteSettingsChanged():
            changed = event.changed_settings
            return [("settings", {int(code): setting.new_value for code, setting in changed.items()})]
        case h2.events.ConnectionTerminated():
            return [("goaway", event.last_stream_id, int(event.error_code or 0), event.additional_data or b"")]
        case _:
            return []


def _plain(fields: Sequence[Any]) -> list[Field]:
    """Without the types of either; the cookie last, which is where h2 puts it."""
    plain = [(bytes(name), bytes(value)) for name, value in fields]
    return sorted(plain, key=lambda field: field[0] == b"cookie")


def _sent(output: bytes, decoder: Decoder) -> list[Heard]:
    """Frames that leave, in order; blocks put together and decoded."""
    found: list[Heard] = []
    block = b""
    ends = False
    for frame in frames_of(output):
        match frame.kind:
            case _ if frame.kind in (HEADERS, CONTINUATION):
                block += frame.payload
                ends = bool(frame.flags & 1) if frame.kind == HEADERS else ends
                if frame.flags & 4:
                    fields = [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
                    found.append(("head", frame.stream_id, fields, ends))
                    block = b""
            case _ if frame.kind == DATA:
                found.append(("data", frame.stream_id, frame.payload, frame.flags))
            case _ if frame.kind == RST_STREAM:
                found.append(("reset", frame.stream_id, int.from_bytes(frame.payload, "big")))
            case _ if frame.kind == GOAWAY:
                found.append(("goaway", int.from_bytes(frame.payload[4:8], "big")))
            case _ if frame.kind in (PING, SETTINGS):
                found.append((frame.kind, frame.flags, frame.payload))
            case _:
                pass
    return found


class Both:
    """One conversation of a client with either server. A step is judged by what both heard and sent in it.

    Each has a table of its own for header blocks; the client's are literals, which change neither.
    """

    def __init__(self) -> None:
        self.ours = Ours()
        self.theirs = Theirs()
        self.left_out: set[int] = set()  # Streams on which commands are not obeyed.
        self.ours.sent()
        self.theirs.sent()

    def begin(self) -> None:
        self.step(PREFACE + settings() + SETTINGS_ACK)

    def step(self, data: bytes) -> Step:
        return Step(self.ours.feed(data), self.ours.sent(), self.theirs.feed(data), self.theirs.sent())


class Step(NamedTuple):
    heard: list[Heard]
    sent: list[Heard]
    heard_there: list[Heard]
    sent_there: list[Heard]

    @property
    def agrees(self) -> bool:
        # Control frames overtake in ours, so that the order of what leaves may differ.
        return self.heard == self.heard_there and sorted(map(repr, self.sent)) == sorted(map(repr, self.sent_there))

    @property
    def verdict(self) -> Verdict:
        return verdict_of(self.sent)

    @property
    def verdict_there(self) -> Verdict:
        return verdict_of(self.sent_there)


def verdict_of(sent: list[Heard]) -> Verdict:
    """The first fault among what was sent."""
    for what in sent:
        if what[0] == "goaway":
            return ("connection", what[1])
        if what[0] == "reset":
            return ("stream", what[1], what[2])
    return ()
