from pathlib import Path
from typing import Annotated

import msgspec
import pytest

from infermesh.core.model.nodes import Address, Role
from infermesh.node.config_keys import Key, ValueFault, keys_of, read_address, show, take_text, take_value

FOLDER = Path("/etc/infermesh")


class Section(msgspec.Struct, frozen=True, kw_only=True):
    name: Annotated[str, Key(doc="Required.", choices=("a", "b"))]
    size_bytes: Annotated[int, Key(doc="A size.", unit="bytes", low=1, high=64)] = 8
    wait_s: Annotated[float, Key(doc="A time.", unit="s", low=0, above=True)] = 1.0
    enabled: Annotated[bool, Key(doc="A switch.")] = True
    listen: Annotated[Address, Key(doc="A port.", port_zero=True)] = Address("127.0.0.1", 0)
    peer: Annotated[Address | None, Key(doc="Another port.", empty=True)] = None
    file: Annotated[Path, Key(doc="A file.", empty=True)] = Path()
    roles: Annotated[frozenset[Role], Key(doc="Roles.")] = frozenset({Role.GPU})
    models: Annotated[tuple[str, ...], Key(doc="Names.", items_max=3)] = ("m",)


SPECS = {spec.name: spec for spec in keys_of(Section)}


def test_keys_are_reflected_with_default_and_words() -> None:
    assert [spec.name for spec in SPECS.values()] == list(Section.__struct_fields__)
    assert SPECS["name"].required
    assert not SPECS["size_bytes"].required
    assert SPECS["size_bytes"].default == 8
    assert SPECS["size_bytes"].key.allowed() == "1 to 64 bytes"
    assert SPECS["wait_s"].key.allowed() == "above 0 s"


@pytest.mark.parametrize(
    ("name", "raw", "value"),
    [
        ("name", "a", "a"),
        ("size_bytes", 1, 1),
        ("size_bytes", 64, 64),
        ("wait_s", 2, 2.0),
        ("enabled", False, False),
        ("listen", "[::1]:80", Address("::1", 80)),
        ("listen", "localhost:0", Address("localhost", 0)),
        ("peer", "", None),
        ("peer", "gpu-a.example.:7443", Address("gpu-a.example.", 7443)),
        ("file", "a.pem", FOLDER / "a.pem"),
        ("file", "/x/a.pem", Path("/x/a.pem")),
        ("file", "", Path()),
        ("roles", ["router", "gpu"], frozenset({Role.ROUTER, Role.GPU})),
        ("models", ["x", "y"], ("x", "y")),
    ],
)
def test_good_values_are_typed(name: str, raw: object, value: object) -> None:
    taken = take_value(SPECS[name], raw, FOLDER)
    assert taken == value
    assert type(taken) is type(value)


@pytest.mark.parametrize(
    ("name", "raw", "fault"),
    [
        ("name", "c", "is unknown; allowed: a, b"),
        ("name", "", "is empty; allowed: a, b"),
        ("name", 3, "is not a text; allowed: a, b"),
        ("size_bytes", 0, "is out of range; allowed: 1 to 64 bytes"),
        ("size_bytes", 65, "is out of range; allowed: 1 to 64 bytes"),
        ("size_bytes", True, "is not a whole number; allowed: 1 to 64 bytes"),
        ("size_bytes", 2.0, "is not a whole number; write 2"),
        ("size_bytes", "8", "is not a whole number; allowed: 1 to 64 bytes"),
        ("wait_s", 0, "is out of range; allowed: above 0 s"),
        ("wait_s", float("inf"), "is not a finite number; allowed: above 0 s"),
        ("wait_s", float("nan"), "is not a finite number; allowed: above 0 s"),
        ("wait_s", "1", "is not a number; allowed: above 0 s"),
        ("wait_s", False, "is not a number; allowed: above 0 s"),
        ("enabled", 1, "is not true or false"),
        ("enabled", "true", "is not true or false"),
        ("file", 3, "is not a path"),
        ("file", "a\0b", "is not a path"),
        ("file", "~no-such-user/x", "has no such home"),
        ("roles", ["voter"], "has unknown roles: voter; allowed: router, gpu, edge"),
        ("roles", "gpu", "is not a list of texts"),
        ("roles", [], "is empty or holds an empty text"),
        ("models", ["a", "a"], "names something twice"),
        ("models", ["a", ""], "is empty or holds an empty text"),
        ("models", ["a", "b", "c", "d"], "holds 4 items; allowed: up to 3"),
        ("models", [1], "is not a list of texts"),
        ("listen", 80, "is not a text"),
        ("peer", "gpu-a:0", "has no valid port: '0'; allowed: 1 to 65535"),
    ],
)
def test_bad_values_say_what_is_wrong_and_what_is_allowed(name: str, raw: object, fault: str) -> None:
    with pytest.raises(ValueFault) as raised:
        take_value(SPECS[name], raw, FOLDER)
    assert str(raised.value).startswith(fault)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "has no port"),
        ("8080", "has no port"),
        (":8080", "has no port"),
        ("host:", "has no valid port: ''"),
        ("host:65536", "has no valid port"),
        ("host:-1", "has no valid port"),
        ("host:\uff18\uff10", "has no valid port"),
        ("::1:80", "is ambiguous; write an IPv6 address in brackets: [::1]:80"),
        ("[nonsense]:80", "has no IPv6 address in its brackets"),
        ("300.1.1.1:80", "has no valid host: '300.1.1.1'"),
        ("1.2.3:80", "has no valid host: '1.2.3'"),
        ("a b:80", "has no valid host"),
        ("http://x:80", "is ambiguous"),
        ("-x:80", "has no valid host"),
        ("x" * 254 + ":80", "has no valid host"),
    ],
)
def test_addresses_that_cannot_be_dialled_are_refused(text: str, fault: str) -> None:
    with pytest.raises(ValueFault) as raised:
        read_address(text, port_zero=True)
    assert str(raised.value).startswith(fault)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("size_bytes", " 1_6 ", 16),
        ("wait_s", "0.5", 0.5),
        ("enabled", "OFF", False),
        ("enabled", "1", True),
        ("roles", "router, gpu", frozenset({Role.ROUTER, Role.GPU})),
        ("roles", '["edge"]', frozenset({Role.EDGE})),
        ("models", "['a', \"b\"]", ("a", "b")),
        ("listen", "0.0.0.0:1", Address("0.0.0.0", 1)),
        ("name", "a", "a"),
    ],
)
def test_texts_of_the_environment_are_read_by_the_type_of_the_key(name: str, text: str, value: object) -> None:
    assert take_text(SPECS[name], text, FOLDER) == value


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("size_bytes", "many", "is not a whole number"),
        ("enabled", "maybe", "is not true or false"),
        ("wait_s", "nan", "is not a finite number"),
        ("roles", "[gpu", "is neither a JSON nor a TOML list"),
    ],
)
def test_texts_that_do_not_fit_are_refused(name: str, text: str, fault: str) -> None:
    with pytest.raises(ValueFault, match=fault):
        take_text(SPECS[name], text, FOLDER)


def test_values_are_shown_short() -> None:
    assert show("a") == '"a"'
    assert show(True) == "true"
    assert len(show("a" * 1000)) == 80
