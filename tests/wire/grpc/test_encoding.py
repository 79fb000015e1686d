"""Names of encodings as they come in fields."""

from __future__ import annotations

import pytest

from wire.grpc.encoding import ACCEPT_ENCODING, Encoding, parse_accept, parse_encoding


def test_what_we_can_read_is_announced_by_the_names_that_we_read() -> None:
    assert parse_accept(ACCEPT_ENCODING) == set(Encoding)
    assert {parse_encoding(name) for name in ACCEPT_ENCODING.split(b",")} == set(Encoding)


@pytest.mark.parametrize("value", [b"", b"br", b"GZIP", b"gzip,identity"])
def test_another_name_is_not_known(value: bytes) -> None:
    assert parse_encoding(value) is None


def test_everybody_reads_identity_and_unknown_names_are_passed_over() -> None:
    assert parse_accept(None) == {Encoding.IDENTITY}
    assert parse_accept(b" zstd ,\tgzip,,") == {Encoding.IDENTITY, Encoding.GZIP}
