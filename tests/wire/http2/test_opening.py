"""How a connection begins without a preface of its own: the upgrade from HTTP/1.1 (RFC 7540 section 3.2)."""

from __future__ import annotations

import struct

import pytest

from tests.wire.http2.raw_peer import (
    DATA,
    HEADERS,
    OK,
    PREFACE,
    SETTINGS,
    SETTINGS_ACK,
    config,
    content,
    frames_of,
    head,
    judge,
    settings,
    take_all,
    window_update,
)
from wire.errors import RemoteProtocolError
from wire.http2 import ErrorCode, Http2Connection, Role, SettingsReceived


def upgraded(entries: bytes = b"") -> Http2Connection:
    connection = Http2Connection(config(Role.SERVER), 0.0)
    connection.start_upgraded(entries, 50.0)
    return connection


def test_stream_one_is_there_to_be_answered() -> None:
    connection = upgraded(struct.pack(">HI", 4, 3))
    assert connection.streams_open == 1
    connection.send_headers(1, OK)
    connection.send_data(1, b"abcd", end_stream=True)
    found = frames_of(take_all(connection))
    assert [one.kind for one in found] == [SETTINGS, 8, HEADERS, DATA]
    assert found[-1].payload == b"abc"
    events = connection.receive(PREFACE + settings(window=3) + SETTINGS_ACK + window_update(1, 1), 50.1)
    assert events == [SettingsReceived({4: 3})]
    assert frames_of(take_all(connection))[-1].payload == b"d"
    assert connection.streams_open == 0


def test_the_client_still_sends_its_preface() -> None:
    assert judge(upgraded(), head(3))[0] == ("connection", ErrorCode.PROTOCOL_ERROR)
    connection = upgraded()
    assert connection.wake_at == 53.0


def test_the_upgraded_request_is_over_and_the_next_stream_is_three() -> None:
    connection = upgraded()
    connection.receive(PREFACE + settings(), 50.0)
    take_all(connection)
    assert judge(connection, content(1))[0] == ("stream", 1, ErrorCode.STREAM_CLOSED)
    assert judge(connection, head(3))[0] == ()


@pytest.mark.parametrize("entries", [bytes(5), struct.pack(">HI", 2, 9), struct.pack(">HI", 4, 2**31)])
def test_settings_that_are_none_stop_the_upgrade_before_any_output(entries: bytes) -> None:
    connection = Http2Connection(config(Role.SERVER), 0.0)
    with pytest.raises(RemoteProtocolError):
        connection.start_upgraded(entries, 0.0)
    assert not connection.has_output


def test_a_server_announces_what_it_holds_to() -> None:
    connection = Http2Connection(
        config(
            Role.SERVER,
            streams_max=9,
            window_bytes=70_000,
            list_bytes_max=5_000,
            frame_bytes_max=20_000,
            table_bytes_max=8_192,
            extended_connect=True,
        ),
        0.0,
    )
    connection.start()
    found = frames_of(take_all(connection))[0]
    entries = dict(struct.iter_unpack(">HI", found.payload))
    assert entries == {1: 8_192, 3: 9, 4: 70_000, 5: 20_000, 6: 5_000, 8: 1}


def test_a_client_forbids_push() -> None:
    connection = Http2Connection(config(Role.CLIENT), 0.0)
    connection.start()
    found = frames_of(take_all(connection).removeprefix(PREFACE))[0]
    assert dict(struct.iter_unpack(">HI", found.payload)) == {2: 0, 4: 1 << 20, 6: 16_384}
