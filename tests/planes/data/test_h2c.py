"""Which requests of HTTP/1.1 ask for HTTP/2, and with which settings."""

from __future__ import annotations

import base64

import pytest

from infermesh.planes.data.h2c import h2c_settings
from wire.http1 import parse_request_head

SETTINGS = bytes.fromhex("000300000064000400100000")


def asked(*lines: bytes) -> bytes | None:
    return h2c_settings(parse_request_head(b"\r\n".join([b"GET / HTTP/1.1", b"host: mesh", *lines, b"", b""])))


def settings(payload: bytes = SETTINGS, *, padded: bool = False) -> bytes:
    value = base64.urlsafe_b64encode(payload)
    return b"HTTP2-Settings: " + (value if padded else value.rstrip(b"="))


UPGRADE = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c")


def test_an_upgrade_gives_its_settings() -> None:
    assert asked(*UPGRADE, settings()) == SETTINGS
    assert asked(*UPGRADE, settings(b"")) == b""
    assert asked(*UPGRADE, settings(SETTINGS + SETTINGS[:6], padded=True)) == SETTINGS + SETTINGS[:6]


def test_names_and_options_are_read_in_any_case_and_order() -> None:
    lines = (b"upgrade: websocket, H2C", b"connection: keep-alive", b"connection: http2-settings, upgrade")
    assert asked(*lines, settings()) == SETTINGS


def test_settings_are_of_the_url_alphabet() -> None:
    value = b"\x00\x04\xff\xff\xff\xfb" * 2
    assert b"_" in base64.urlsafe_b64encode(value)
    assert asked(*UPGRADE, settings(value)) == value


@pytest.mark.parametrize(
    "lines",
    [
        UPGRADE,
        (*UPGRADE, settings(), settings()),
        (b"Connection: Upgrade", b"Upgrade: h2c", settings()),
        (b"Connection: HTTP2-Settings", b"Upgrade: h2c", settings()),
        (UPGRADE[0], b"Upgrade: websocket", settings()),
        (UPGRADE[0], b"Upgrade: h2", settings()),
        (UPGRADE[0], settings()),
        (*UPGRADE, b"HTTP2-Settings: not base64!"),
        (*UPGRADE, b"HTTP2-Settings: AAMAAABkAAQAQAAAAAIAAAA"),
        (*UPGRADE, settings(SETTINGS[:5])),
        (*UPGRADE, settings(SETTINGS * 100)),
    ],
)
def test_what_asks_for_no_upgrade_that_counts_is_served_as_it_is(lines: tuple[bytes, ...]) -> None:
    assert asked(*lines) is None
