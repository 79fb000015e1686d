"""Header lists as messages: section 8 of RFC 9113, row by row."""

from __future__ import annotations

import pytest

from tests.wire.http2.raw_peer import GET, OK
from wire.http1 import Field
from wire.http2 import fields as module
from wire.http2.fields import Malformed, check_request, check_response, check_trailers
from wire.http2.hpack import NeverIndexed
from wire.limits import HTTP2_PASSED_FIELD_BYTES_MAX, HTTP2_PASSED_FIELDS_MAX

CONNECT: list[Field] = [(b":method", b"CONNECT"), (b":authority", b"mesh.test:443")]
WEBSOCKET: list[Field] = [
    (b":method", b"CONNECT"),
    (b":protocol", b"websocket"),
    (b":scheme", b"https"),
    (b":path", b"/chat"),
    (b":authority", b"mesh.test"),
]


def get(**changes: bytes | None) -> list[Field]:
    """GET with pseudo-header fields changed, added, or (None) left out."""
    pseudo: dict[bytes, bytes | None] = {
        **dict(GET),
        **{b":" + name.encode(): value for name, value in changes.items()},
    }
    return [(name, value) for name, value in pseudo.items() if value is not None]


REQUESTS_REFUSED: list[tuple[str, list[Field]]] = [
    # 8.2.1 Field validity
    ("upper case", [*GET, (b"X-Id", b"1")]),
    ("space in a name", [*GET, (b"x id", b"1")]),
    ("control in a name", [*GET, (b"x\x01", b"1")]),
    ("line feed in a name", [*GET, (b"x\ny", b"1")]),
    ("not ASCII in a name", [*GET, (b"x\xe9", b"1")]),
    ("colon in a name", [*GET, (b"x:y", b"1")]),
    ("empty name", [*GET, (b"", b"1")]),
    ("two fields around a line feed", [*GET, (b"a\n", b"1"), (b"b", b"2")]),
    ("NUL in a value", [*GET, (b"x", b"a\x00b")]),
    ("CR in a value", [*GET, (b"x", b"a\rb")]),
    ("LF in a value", [*GET, (b"x", b"a\nb")]),
    ("LF at the end of a value", [*GET, (b"x", b"a\n"), (b"y", b"b")]),
    ("control in a value", [*GET, (b"x", b"a\x1fb")]),
    ("DEL in a value", [*GET, (b"x", b"a\x7f")]),
    ("space before a value", [*GET, (b"x", b" a")]),
    ("space after a value", [*GET, (b"x", b"a ")]),
    ("tab after a value", [*GET, (b"x", b"a\t")]),
    ("tab before a value", [*GET, (b"x", b"\ta"), (b"y", b"b")]),
    ("nothing but a space", [*GET, (b"x", b" ")]),
    # 8.2.2 Fields of a connection
    ("connection", [*GET, (b"connection", b"close")]),
    ("keep-alive", [*GET, (b"keep-alive", b"5")]),
    ("proxy-connection", [*GET, (b"proxy-connection", b"close")]),
    ("transfer-encoding", [*GET, (b"transfer-encoding", b"chunked")]),
    ("upgrade", [*GET, (b"upgrade", b"h2c")]),
    ("te", [*GET, (b"te", b"gzip")]),
    ("te with more", [*GET, (b"te", b"trailers, deflate")]),
    # 8.3 Pseudo-header fields
    ("unknown", get(unknown=b"1")),
    ("of a response", get(status=b"200")),
    ("after a regular field", [*GET[:3], (b"x", b"y"), GET[3]]),
    ("twice", [*GET, GET[2]]),
    ("twice and equal :method", [GET[0], *GET]),
    # 8.3.1 Requests
    ("no :method", get(method=None)),
    ("empty :method", get(method=b"")),
    (":method with a space", get(method=b"GET /")),
    ("no :scheme", get(scheme=None)),
    ("empty :scheme", get(scheme=b"")),
    ("odd :scheme", get(scheme=b"ht tp")),
    ("no :path", get(path=None)),
    ("empty :path", get(path=b"")),
    (":path without a slash", get(path=b"index")),
    (":path with a space", get(path=b"/a b")),
    (":path with CR", get(path=b"/a\r")),
    (":path with NUL", get(path=b"/\x00")),
    (":path with a fragment", get(path=b"/#a")),
    (":path not in ASCII", get(path=b"/\xc3\xa9")),
    ("asterisk with GET", get(path=b"*")),
    ("empty :authority", get(authority=b"")),
    (":authority with user", get(authority=b"me@mesh.test")),
    (":authority with a path", get(authority=b"mesh.test/a")),
    (":authority with a space", get(authority=b"mesh .test")),
    ("neither :authority nor host", get(authority=None)),
    ("host that differs", [*GET, (b"host", b"other.test")]),
    ("host with another port", [*GET, (b"host", b"mesh.test:81")]),
    ("host with the port of another scheme", [*GET, (b"host", b"mesh.test:443")]),
    ("empty host", [*GET, (b"host", b"")]),
    ("two hosts", [*GET, (b"host", b"mesh.test"), (b"host", b"mesh.test")]),
    # 8.1.1 Lengths
    ("two content-lengths", [*GET, (b"content-length", b"1"), (b"content-length", b"1")]),
    ("signed length", [*GET, (b"content-length", b"+1")]),
    ("empty length", [*GET, (b"content-length", b"")]),
    ("length of a list", [*GET, (b"content-length", b"1, 1")]),
    ("length of 20 digits", [*GET, (b"content-length", b"1" * 20)]),
    # 8.5 CONNECT, RFC 8441
    ("CONNECT without :authority", [(b":method", b"CONNECT")]),
    ("CONNECT with :path", [*CONNECT, (b":path", b"/")]),
    ("CONNECT with :scheme", [*CONNECT, (b":scheme", b"http")]),
    (":protocol with GET", get(protocol=b"websocket")),
    (":protocol without :path", [row for row in WEBSOCKET if row[0] != b":path"]),
    (":protocol without :scheme", [row for row in WEBSOCKET if row[0] != b":scheme"]),
    (":protocol that is no token", [(name, b"a b" if name == b":protocol" else value) for name, value in WEBSOCKET]),
    ("nothing at all", []),
]


@pytest.mark.parametrize(("what", "fields"), REQUESTS_REFUSED, ids=[row[0] for row in REQUESTS_REFUSED])
def test_a_malformed_request_is_refused(what: str, fields: list[Field]) -> None:
    for _ in range(2):  # The second time with whatever was remembered of the first.
        with pytest.raises(Malformed):
            check_request(list(fields), extended_connect=True)


REQUESTS_TAKEN: list[tuple[str, list[Field]]] = [
    ("plain", GET),
    ("host alone", [*get(authority=None), (b"host", b"mesh.test")]),
    ("host that agrees", [*GET, (b"host", b"mesh.test")]),
    ("host in another case", [*GET, (b"host", b"MESH.test")]),
    ("host with the default port", [*GET, (b"host", b"mesh.test:80")]),
    ("IPv6", get(authority=b"[::1]:8080")),
    ("asterisk", get(method=b"OPTIONS", path=b"*")),
    ("query", get(path=b"/a?b=%20c|d")),
    ("te: trailers", [*GET, (b"te", b"trailers")]),
    ("te: Trailers", [*GET, (b"te", b"Trailers")]),
    ("empty value", [*GET, (b"x", b"")]),
    ("obs-text and inner white space", [*GET, (b"x", b"a \t\xe9b")]),
    ("any token", [*GET, (b"!#$%&'*+-.^_`|~09az", b"1")]),
    ("length", [*GET, (b"content-length", b"1" * 19)]),
    ("CONNECT", CONNECT),
    ("RFC 8441", WEBSOCKET),
    ("a method of its own", get(method=b"m-SEARCH")),
]


@pytest.mark.parametrize(("what", "fields"), REQUESTS_TAKEN, ids=[row[0] for row in REQUESTS_TAKEN])
def test_a_well_formed_request_is_taken(what: str, fields: list[Field]) -> None:
    length = check_request(list(fields), extended_connect=True)
    assert length == int(dict(fields).get(b"content-length", b"-1"))


def test_extended_connect_is_refused_where_it_was_not_offered() -> None:
    with pytest.raises(Malformed):
        check_request(list(WEBSOCKET), extended_connect=False)


RESPONSES_REFUSED: list[tuple[str, list[Field]]] = [
    ("no :status", [(b"x", b"y")]),
    ("two", [*OK, *OK]),
    ("two digits", [(b":status", b"20")]),
    ("four digits", [(b":status", b"2000")]),
    ("no digits", [(b":status", b"2x0")]),
    ("leading zero", [(b":status", b"020")]),
    ("101", [(b":status", b"101")]),
    ("of a request", [*OK, (b":path", b"/")]),
    ("after a regular field", [(b"x", b"y"), *OK]),
    ("connection", [*OK, (b"connection", b"close")]),
    ("transfer-encoding", [*OK, (b"transfer-encoding", b"chunked")]),
    ("two lengths", [*OK, (b"content-length", b"1"), (b"content-length", b"2")]),
    ("upper case", [*OK, (b"Server", b"x")]),
]


@pytest.mark.parametrize(("what", "fields"), RESPONSES_REFUSED, ids=[row[0] for row in RESPONSES_REFUSED])
def test_a_malformed_response_is_refused(what: str, fields: list[Field]) -> None:
    with pytest.raises(Malformed):
        check_response(list(fields))


def test_a_response_gives_its_status_and_length() -> None:
    assert check_response(OK) == (200, -1)
    assert check_response([(b":status", b"103"), (b"content-length", b"0")]) == (103, 0)


@pytest.mark.parametrize(
    "bad", [(b":status", b"200"), (b":path", b"/"), (b":x", b""), (b"te", b"x"), (b"upgrade", b"x")]
)
def test_trailers_have_no_pseudo_fields_and_none_of_a_connection(bad: Field) -> None:
    check_trailers([(b"grpc-status", b"0")])
    with pytest.raises(Malformed):
        check_trailers([(b"grpc-status", b"0"), bad])


def test_cookie_crumbs_are_joined_where_the_first_one_stood() -> None:
    fields = [*GET, (b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2"), (b"cookie", b"c=3")]
    check_request(fields, extended_connect=False)
    assert fields == [*GET, (b"cookie", b"a=1; b=2; c=3"), (b"x", b"y")]


def test_a_crumb_that_was_never_to_be_indexed_makes_the_cookie_so() -> None:
    fields: list[Field] = [*GET, (b"cookie", b"a=1"), NeverIndexed((b"cookie", b"b=2"))]
    check_request(fields, extended_connect=False)
    assert isinstance(fields[-1], NeverIndexed)


def test_a_single_cookie_stays_as_it_came() -> None:
    crumb = NeverIndexed((b"cookie", b"a=1"))
    fields: list[Field] = [*GET, crumb]
    check_request(fields, extended_connect=False)
    assert fields[-1] is crumb


def test_what_is_remembered_as_well_formed_is_small_ordinary_and_no_secret() -> None:
    module._PASSED.clear()
    name = b"x-longest"
    longest = (name, b"v" * (HTTP2_PASSED_FIELD_BYTES_MAX - len(name)))
    too_long = (name, longest[1] + b"v")
    secret = (b"authorization", b"Bearer x")
    check_request([*GET, longest, too_long, secret, (b"content-length", b"1")], extended_connect=False)
    assert {longest} == module._PASSED


def test_the_memo_of_fields_is_bounded() -> None:
    module._PASSED.clear()
    for number in range(3 * HTTP2_PASSED_FIELDS_MAX):
        check_trailers([(b"x-id", b"%d" % number)])
        assert len(module._PASSED) <= HTTP2_PASSED_FIELDS_MAX
    assert len(module._PASSED) > HTTP2_PASSED_FIELDS_MAX // 2
