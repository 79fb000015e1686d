"""What the peer has announced, as it adds up over several SETTINGS; their rules are in test_control.py."""

from __future__ import annotations

import struct

import pytest

from wire.http2.faults import ConnectionFault
from wire.http2.settings import STREAMS_BEFORE_SETTINGS, UNLIMITED, PeerSettings, read_settings


def test_before_the_peer_has_said_anything_the_defaults_hold() -> None:
    peer = PeerSettings()
    assert (peer.initial_window, peer.frame_max, peer.table_bytes) == (65_535, 16_384, 4_096)
    assert (peer.max_concurrent, peer.extended_connect) == (STREAMS_BEFORE_SETTINGS, False)


def test_what_is_not_named_stays_as_it_was() -> None:
    peer = PeerSettings()
    peer.take({3: 5, 4: 9}, first=True)
    peer.take({5: 20_000, 6: 7, 8: 1}, first=False)
    assert (peer.max_concurrent, peer.initial_window, peer.frame_max) == (5, 9, 20_000)
    assert (peer.list_bytes_max, peer.extended_connect) == (7, True)
    peer.take({}, first=True)
    assert peer.max_concurrent == UNLIMITED


def test_reading_changes_nothing() -> None:
    peer = PeerSettings()
    assert read_settings(struct.pack(">HI", 4, 9), peer, from_server=False) == {4: 9}
    assert peer.initial_window == 65_535
    with pytest.raises(ConnectionFault):
        read_settings(b"x", peer, from_server=False)
