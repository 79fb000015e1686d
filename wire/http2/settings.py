"""SETTINGS, both ways (RFC 9113 section 6.5, RFC 8441 section 3): what we announce, and what the peer may ask for.

Not here: what a changed setting does to windows and tables; the connection does that, in the order of its docstring.
"""

from __future__ import annotations

from typing import Final

from wire.http2.config import Http2Config, Role
from wire.http2.faults import flow_fault, frame_size_fault, protocol_fault
from wire.http2.frames import (
    FRAME_BYTES_DEFAULT,
    FRAME_BYTES_LARGEST,
    SETTING_ENTRY,
    TABLE_BYTES_DEFAULT,
    WINDOW_DEFAULT,
    WINDOW_MAX,
    Setting,
)

# What we take for the peer's limit until it has said one: it may have none, but most have a hundred.
STREAMS_BEFORE_SETTINGS: Final = 100
UNLIMITED: Final = 0xFFFF_FFFF
_BOUNDS: Final = {
    Setting.ENABLE_PUSH: (0, 1),
    Setting.INITIAL_WINDOW_SIZE: (0, WINDOW_MAX),
    Setting.MAX_FRAME_SIZE: (FRAME_BYTES_DEFAULT, FRAME_BYTES_LARGEST),
    Setting.ENABLE_CONNECT_PROTOCOL: (0, 1),
}


class PeerSettings:
    """What the peer has announced, as it stands now."""

    __slots__ = ("extended_connect", "frame_max", "initial_window", "list_bytes_max", "max_concurrent", "table_bytes")

    def __init__(self) -> None:
        self.max_concurrent = STREAMS_BEFORE_SETTINGS
        self.initial_window = WINDOW_DEFAULT
        self.frame_max = FRAME_BYTES_DEFAULT
        self.list_bytes_max = UNLIMITED
        self.table_bytes = TABLE_BYTES_DEFAULT
        self.extended_connect = False

    def take(self, settings: dict[int, int], *, first: bool) -> None:
        """Valid settings. `first`: the connection's first, in which a limit that is not named does not exist."""
        get = settings.get
        unnamed = UNLIMITED if first else self.max_concurrent
        self.max_concurrent = get(Setting.MAX_CONCURRENT_STREAMS, unnamed)
        self.initial_window = get(Setting.INITIAL_WINDOW_SIZE, self.initial_window)
        self.frame_max = get(Setting.MAX_FRAME_SIZE, self.frame_max)
        self.list_bytes_max = get(Setting.MAX_HEADER_LIST_SIZE, self.list_bytes_max)
        self.table_bytes = get(Setting.HEADER_TABLE_SIZE, self.table_bytes)
        self.extended_connect = bool(get(Setting.ENABLE_CONNECT_PROTOCOL, self.extended_connect))


def announced(config: Http2Config) -> dict[int, int]:
    settings: dict[int, int] = {
        Setting.INITIAL_WINDOW_SIZE: config.window_bytes,
        Setting.MAX_HEADER_LIST_SIZE: config.list_bytes_max,
    }
    if config.role is Role.SERVER:
        settings[Setting.MAX_CONCURRENT_STREAMS] = config.streams_max
        if config.extended_connect:
            settings[Setting.ENABLE_CONNECT_PROTOCOL] = 1
    else:
        settings[Setting.ENABLE_PUSH] = 0
    if config.frame_bytes_max != FRAME_BYTES_DEFAULT:
        settings[Setting.MAX_FRAME_SIZE] = config.frame_bytes_max
    if config.table_bytes_max != TABLE_BYTES_DEFAULT:
        settings[Setting.HEADER_TABLE_SIZE] = config.table_bytes_max
    return settings


def read_settings(payload: bytes, known: PeerSettings, *, from_server: bool) -> dict[int, int]:
    """The entries, the last of each id. Raises ConnectionFault for one that its id forbids, the last or not."""
    if len(payload) % SETTING_ENTRY.size:
        raise frame_size_fault(f"SETTINGS of {len(payload)} bytes, not a multiple of {SETTING_ENTRY.size}")
    settings: dict[int, int] = {}
    for setting, value in SETTING_ENTRY.iter_unpack(payload):
        bounds = _BOUNDS.get(setting)
        if bounds is not None and not bounds[0] <= value <= bounds[1]:
            fault = flow_fault if setting == Setting.INITIAL_WINDOW_SIZE else protocol_fault
            raise fault(f"SETTINGS_{Setting(setting).name} {value}")
        settings[setting] = value
    if from_server and settings.get(Setting.ENABLE_PUSH, 0):
        raise protocol_fault("SETTINGS_ENABLE_PUSH 1 from a server")
    if not settings.get(Setting.ENABLE_CONNECT_PROTOCOL, 1) and known.extended_connect:
        raise protocol_fault("SETTINGS_ENABLE_CONNECT_PROTOCOL taken back (RFC 8441 section 3)")
    return settings
