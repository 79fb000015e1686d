"""nghttpd, where it is installed: a server that others wrote and that every HTTP/2 suite has been run against."""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from infermesh.cli.fleet.ports import find_ports
from tests.conformance.http2.port import HOST, Port
from tests.interop.exchange import wait_until

_STOP_S: Final = 5.0
_PAGE: Final = b"<p>A page of this many octets, enough for every window that a test opens.</p>\n" * 4

_RIGHT: Final = "its right: an endpoint may treat an error of a stream as one of the connection (RFC 9113 section 5.4)"
_LENIENT: Final = "its right: section 8.3.1 asks this of the client, and of a server no more than that it should"
_BOUND: Final = "its right: it bounds the CONTINUATION frames of a block at 8"
OTHERWISE: Final[dict[str, str]] = {
    "test_a_field_block_may_be_cut_anywhere[nghttpd-2]": _BOUND,
    "test_a_field_block_may_be_cut_anywhere[nghttpd-3]": _BOUND,
    "test_data_after_the_end_of_a_stream_is_an_error_of_that_stream": _RIGHT,
    "test_headers_after_the_end_of_a_stream_are_an_error_of_that_stream": _RIGHT,
    "test_an_error_of_one_stream_leaves_the_others_alone": _RIGHT,
    "test_a_stream_over_the_limit_is_refused_and_the_others_go_on": _RIGHT,
    "test_an_initial_window_that_lifts_a_stream_over_the_largest_size_ends_the_connection": (
        "its fault: it resets the stream (section 6.9.2)"
    ),
    "test_a_continuation_over_the_largest_size_ends_the_connection": "its fault: it decodes first (section 4.2)",
    "test_a_frame_of_a_wrong_size_ends_the_connection[nghttpd-HEADERS padded without a length]": (
        "its fault: PROTOCOL_ERROR for a frame without its mandatory octets (section 4.2)"
    ),
    "test_an_authority_that_is_none_is_malformed[nghttpd-user:secret@localhost]": _LENIENT,
    "test_an_authority_that_is_none_is_malformed[nghttpd-user@localhost:8080]": _LENIENT,
    "test_a_host_that_is_another_than_the_authority_is_malformed": _LENIENT,
    "test_a_connect_to_somewhere_else_is_not_done": "its right: it waits for the end of the request first",
    "test_stream_identifiers_only_grow": "its fault: it ignores a stream that was passed over (section 5.1.1)",
    "test_after_the_last_stream_identifier_there_is_no_further_stream": "its fault: as the one before",
    "test_a_bad_setting_that_a_later_one_would_replace_ends_the_connection": (
        "its fault: it looks at the last value only (section 6.5.3)"
    ),
    "test_a_stream_that_was_passed_over_takes_no_data": "its fault: it ignores that data (section 5.1)",
}
"""Tests that nghttpd fails, and why that is its right or its fault. Name of the test, or with its parameters."""


@contextlib.contextmanager
def nghttpd(folder: Path) -> Iterator[Port]:
    program = shutil.which("nghttpd")
    if program is None:
        pytest.skip("nghttpd is not installed on this machine")
    (folder / "index.html").write_bytes(_PAGE)
    (number,) = find_ports(1, host=HOST, rng=random.Random())
    process = subprocess.Popen(
        [program, "--no-tls", "-a", HOST, "-d", str(folder), str(number)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
    )
    try:
        wait_until("nghttpd listens", lambda: process.poll() is not None or _listens(number))
        assert process.poll() is None, "nghttpd ended at once"
        yield Port(name="nghttpd", number=number, path=b"/index.html", echoes=False, patience_s=1.0)
    finally:
        process.terminate()
        process.wait(_STOP_S)


def _listens(number: int) -> bool:
    with contextlib.closing(socket.socket()) as sock:
        return sock.connect_ex((HOST, number)) == 0
