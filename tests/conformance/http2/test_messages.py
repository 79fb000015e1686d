"""RFC 9113 section 8: requests as field lists, what makes one malformed, and how an exchange goes."""

from __future__ import annotations

import pytest

from tests.conformance.http2.frames import Code, Kind, data, headers, rst_stream, settings
from tests.conformance.http2.port import Port
from tests.conformance.http2.raw_peer import Pairs, RawPeer


async def _refused(peer: RawPeer, fields: Pairs, body: bytes | None = None) -> None:
    """A malformed request is an error of its stream, and the next one is answered."""
    await peer.send(headers(1, peer.block(fields), end=body is None))
    if body is not None:
        await peer.send(data(1, body, end=True))
    await peer.stream_error(1, Code.PROTOCOL_ERROR)
    await peer.send(peer.get(3))
    assert (await peer.response(3)).status == peer.status


async def _taken(peer: RawPeer, fields: Pairs) -> None:
    await peer.send(headers(1, peer.block(fields), end=True))
    assert (await peer.response(1)).status == peer.status


def _without(fields: Pairs, name: bytes) -> Pairs:
    return [pair for pair in fields if pair[0] != name]


def _with(fields: Pairs, name: bytes, value: bytes) -> Pairs:
    return [(name, value) if pair[0] == name else pair for pair in fields]


# --- 8.1 exchanges ---


async def test_a_get_is_answered(peer: RawPeer) -> None:
    await peer.send(peer.get(1))
    response = await peer.response(1)
    assert response.status == peer.status
    assert response.body
    assert not any(name != name.lower() for name, _ in response.fields)
    assert not {b"connection", b"transfer-encoding", b"keep-alive", b"upgrade"} & dict(response.fields).keys()


async def test_the_answer_to_a_head_has_no_body(peer: RawPeer) -> None:
    await peer.send(peer.get(1, method=b"HEAD"))
    response = await peer.response(1)
    assert response.status in (200, 404, 405)
    assert response.body == b""


async def test_a_post_is_answered_when_its_body_is_whole(peer: RawPeer) -> None:
    await peer.send(peer.post(1), data(1, b"{}"))
    assert not any(each.ends_stream for each in await peer.barrier())
    await peer.send(data(1, b"", end=True))
    assert (await peer.response(1)).reset is None


async def test_a_post_may_end_in_trailers(peer: RawPeer) -> None:
    trailers = peer.block([(b"x-checksum", b"1234")])
    await peer.send(peer.post(1, (b"trailer", b"x-checksum")), data(1, b"{}"), headers(1, trailers, end=True))
    assert (await peer.response(1)).reset is None


async def test_trailers_may_come_without_a_body(peer: RawPeer) -> None:
    await peer.send(peer.post(1), headers(1, peer.block([(b"x-checksum", b"1234")]), end=True))
    assert (await peer.response(1)).reset is None


async def test_trailers_that_do_not_end_the_stream_are_malformed(peer: RawPeer) -> None:
    await peer.send(peer.post(1), data(1, b"x"), headers(1, peer.block([(b"x-late", b"1")])))
    await peer.stream_error(1, Code.PROTOCOL_ERROR)


@pytest.mark.parametrize("name", [b":path", b":status", b":unknown"])
async def test_trailers_with_a_pseudo_field_are_malformed(peer: RawPeer, name: bytes) -> None:
    await peer.send(peer.post(1), data(1, b"{}"), headers(1, peer.block([(name, b"/")]), end=True))
    await peer.stream_error(1, Code.PROTOCOL_ERROR)


@pytest.mark.parametrize("name", [b"connection", b"X-Upper", b"transfer-encoding"])
async def test_trailers_obey_the_rules_of_fields(peer: RawPeer, name: bytes) -> None:
    await peer.send(peer.post(1), data(1, b"{}"), headers(1, peer.block([(name, b"close")]), end=True))
    await peer.stream_error(1, Code.PROTOCOL_ERROR)


async def test_requests_that_are_interleaved_are_answered_each_for_itself(peer: RawPeer, port: Port) -> None:
    paths = [b"/interleaved-%d" % number for number in range(5)]
    for number, path in enumerate(paths):
        fields = _with(peer.fields(b"POST"), b":path", path)
        await peer.send(headers(2 * number + 1, peer.block(fields)))
    for number in (4, 1, 0, 3, 2):
        await peer.send(data(2 * number + 1, b"{}", end=True))
    for number, path in enumerate(paths):
        assert port.understood(await peer.response(2 * number + 1), path)


# --- 8.1.1 malformed: content-length ---

_LENGTHS = {
    "more than announced": (b"1", [b"test"]),
    "more in a later frame": (b"5", [b"test", b"test"]),
    "less than announced": (b"5", [b"test"]),
    "nothing of what was announced": (b"5", [b""]),
}


@pytest.mark.parametrize(("length", "parts"), _LENGTHS.values(), ids=_LENGTHS)
async def test_a_body_of_another_length_than_announced_is_malformed(
    peer: RawPeer, length: bytes, parts: list[bytes]
) -> None:
    await peer.send(peer.post(1, (b"content-length", length)))
    await peer.send(*(data(1, part) for part in parts[:-1]), data(1, parts[-1], end=True))
    await peer.stream_error(1, Code.PROTOCOL_ERROR)


async def test_a_request_without_the_body_it_announces_is_malformed(peer: RawPeer) -> None:
    await _refused(peer, peer.fields(b"POST", (b"content-length", b"1")))


async def test_trailers_before_the_announced_end_are_malformed(peer: RawPeer) -> None:
    await peer.send(
        peer.post(1, (b"content-length", b"5")), data(1, b"test"), headers(1, peer.block([(b"x-t", b"1")]), end=True)
    )
    await peer.stream_error(1, Code.PROTOCOL_ERROR)


@pytest.mark.parametrize("length", [b"", b"-1", b"+4", b"4a", b"0x4", b"4 4", b"4.0", b"\xd9\xa4"])
async def test_a_length_that_is_no_number_is_malformed(peer: RawPeer, length: bytes) -> None:
    await _refused(peer, peer.fields(b"POST", (b"content-length", length)), b"test")


async def test_two_lengths_that_differ_are_malformed(peer: RawPeer) -> None:
    await _refused(peer, peer.fields(b"POST", (b"content-length", b"4"), (b"content-length", b"5")), b"test")


# --- 8.2 fields ---

_BAD_NAMES = [b"X-Upper", b"x-Mixed", b"x space", b"x:colon", b"", b"x\x00nul", b"x\x7fdel", b"x\nline", b"\xc3\xa9"]


@pytest.mark.parametrize("name", _BAD_NAMES)
async def test_a_field_name_of_other_than_lower_case_letters_is_malformed(peer: RawPeer, name: bytes) -> None:
    await _refused(peer, peer.fields(b"GET", (name, b"ok")))


_BAD_VALUES = [b"a\x00b", b"a\nb", b"a\rb", b"\r\nx: y", b" before", b"after ", b"\tbefore", b"after\t"]


@pytest.mark.parametrize("value", _BAD_VALUES)
async def test_a_field_value_with_line_ends_or_space_around_it_is_malformed(peer: RawPeer, value: bytes) -> None:
    await _refused(peer, peer.fields(b"GET", (b"x-test", value)))


@pytest.mark.parametrize("value", [b"", b"a b\tc", b'!#"()[]{};,', b"caf\xc3\xa9", b"\xff"])
async def test_a_field_value_may_be_of_any_visible_octets(peer: RawPeer, value: bytes) -> None:
    await _taken(peer, peer.fields(b"GET", (b"x-test", value)))


_OF_THE_CONNECTION = {
    "connection": (b"connection", b"keep-alive"),
    "keep-alive": (b"keep-alive", b"timeout=5"),
    "proxy-connection": (b"proxy-connection", b"keep-alive"),
    "transfer-encoding": (b"transfer-encoding", b"chunked"),
    "transfer-encoding identity": (b"transfer-encoding", b"identity"),
    "upgrade": (b"upgrade", b"websocket"),
    "te gzip": (b"te", b"gzip"),
    "te trailers and gzip": (b"te", b"trailers, gzip"),
}


@pytest.mark.parametrize("extra", _OF_THE_CONNECTION.values(), ids=_OF_THE_CONNECTION)
async def test_a_field_of_one_connection_is_malformed(peer: RawPeer, extra: tuple[bytes, bytes]) -> None:
    await _refused(peer, peer.fields(b"GET", extra))


async def test_te_may_say_trailers(peer: RawPeer) -> None:
    await _taken(peer, peer.fields(b"GET", (b"te", b"trailers")))


async def test_a_cookie_may_come_in_crumbs(peer: RawPeer) -> None:
    await _taken(peer, peer.fields(b"GET", (b"cookie", b"a=1"), (b"cookie", b"b=2"), (b"cookie", b"c=3")))


# --- 8.3 pseudo fields ---


@pytest.mark.parametrize("name", [b":method", b":scheme", b":path"])
async def test_a_request_without_a_pseudo_field_is_malformed(peer: RawPeer, name: bytes) -> None:
    await _refused(peer, _without(peer.fields(), name))


@pytest.mark.parametrize("name", [b":method", b":scheme", b":path", b":authority"])
async def test_a_pseudo_field_that_comes_twice_is_malformed(peer: RawPeer, name: bytes) -> None:
    fields = peer.fields()
    await _refused(peer, [*fields, (name, dict(fields)[name])])


@pytest.mark.parametrize("name", [b":method", b":scheme", b":path", b":authority"])
async def test_a_pseudo_field_after_another_field_is_malformed(peer: RawPeer, name: bytes) -> None:
    fields = peer.fields()
    await _refused(peer, [*_without(fields, name), (b"x-test", b"ok"), (name, dict(fields)[name])])


@pytest.mark.parametrize("pair", [(b":status", b"200"), (b":test", b"ok"), (b":", b"ok"), (b":protocol", b"websocket")])
async def test_a_pseudo_field_that_no_such_request_has_is_malformed(peer: RawPeer, pair: tuple[bytes, bytes]) -> None:
    await _refused(peer, [*peer.fields(), pair])


@pytest.mark.parametrize("path", [b"", b"index.html", b"?query", b"/a b", b"/a\x00b", b"/a\r\nb", b"/\x7f", b"*"])
async def test_a_path_that_is_none_is_malformed(peer: RawPeer, path: bytes) -> None:
    await _refused(peer, _with(peer.fields(), b":path", path))


@pytest.mark.parametrize("method", [b"", b"GE T", b"GET\x00", b"GET /", b"G\xc3\x89T"])
async def test_a_method_that_is_no_token_is_malformed(peer: RawPeer, method: bytes) -> None:
    await _refused(peer, _with(peer.fields(), b":method", method))


@pytest.mark.parametrize("authority", [b"user:secret@localhost", b"user@localhost:8080", b"local host", b"localhost/x"])
async def test_an_authority_that_is_none_is_malformed(peer: RawPeer, authority: bytes) -> None:
    await _refused(peer, _with(peer.fields(), b":authority", authority))


async def test_a_host_that_is_another_than_the_authority_is_malformed(peer: RawPeer) -> None:
    await _refused(peer, peer.fields(b"GET", (b"host", b"elsewhere.example")))


async def test_a_host_may_say_the_authority_again(peer: RawPeer) -> None:
    await _taken(peer, peer.fields(b"GET", (b"host", peer.authority)))


async def test_a_host_may_stand_for_the_authority(peer: RawPeer) -> None:
    await _taken(peer, [*_without(peer.fields(), b":authority"), (b"host", peer.authority)])


async def test_pseudo_fields_may_come_in_any_order(peer: RawPeer) -> None:
    await _taken(peer, peer.fields()[::-1])


async def test_the_options_of_the_server_are_asked_for_with_an_asterisk(peer: RawPeer) -> None:
    await peer.send(headers(1, peer.block(_with(peer.fields(b"OPTIONS"), b":path", b"*")), end=True))
    assert (await peer.response(1)).reset is None


# --- 8.5 CONNECT ---


async def test_a_connect_without_an_authority_is_malformed(peer: RawPeer) -> None:
    await _refused(peer, [(b":method", b"CONNECT")])


@pytest.mark.parametrize("extra", [(b":scheme", b"https"), (b":path", b"/")])
async def test_a_connect_with_a_scheme_or_a_path_is_malformed(peer: RawPeer, extra: tuple[bytes, bytes]) -> None:
    await _refused(peer, [(b":method", b"CONNECT"), (b":authority", b"db.example:5432"), extra])


async def test_a_connect_to_somewhere_else_is_not_done(peer: RawPeer) -> None:
    block = peer.block([(b":method", b"CONNECT"), (b":authority", b"127.0.0.1:1")])
    await peer.send(headers(1, block))
    response = await peer.response(1)
    assert response.reset is not None or response.status >= 400
    await peer.barrier()


# --- 8.7 and the ends of exchanges ---


async def test_the_client_may_reset_what_it_no_longer_wants(peer: RawPeer) -> None:
    await peer.send(*(peer.post(number) for number in range(1, 9, 2)))
    await peer.send(*(rst_stream(number) for number in range(1, 9, 2)), peer.get(9))
    assert (await peer.response(9)).status == peer.status


async def test_an_answer_has_one_end(peer: RawPeer) -> None:
    await peer.send(peer.get(1), settings())
    await peer.response(1)
    await peer.barrier()
    assert sum(each.ends_stream for each in peer.seen if each.stream_id == 1) == 1
    assert not any(each.kind == Kind.RST_STREAM for each in peer.seen)
