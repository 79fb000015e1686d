import re

import msgspec
import pytest

from infermesh.core.model.nodes import Address
from infermesh.node.config_keys import keys_of
from infermesh.node.config_sections import SECTIONS, TABLES, NodeConfig
from infermesh.node.config_source import SPECS

UNITS = {"_s": "s", "_ms": "ms", "_bytes_max": "bytes"}


def test_every_section_is_a_field_of_the_whole() -> None:
    fields = {field.name for field in msgspec.structs.fields(NodeConfig)}
    assert fields == {*SECTIONS, *TABLES, "origins"}


@pytest.mark.parametrize("key", SPECS)
def test_every_key_has_words_a_unit_that_its_name_ends_in_and_a_valid_default(key: str) -> None:
    spec = SPECS[key]
    assert re.fullmatch(r"[A-Z/].*\.", spec.key.doc), key
    for suffix, unit in UNITS.items():
        if key.endswith(suffix) and not (suffix == "_s" and key.endswith("_ms")):
            assert spec.key.unit == unit, key
    if isinstance(spec.default, int | float) and not isinstance(spec.default, bool):
        assert spec.key.low <= spec.default <= spec.key.high
    if isinstance(spec.default, Address) and spec.default.port == 0:
        assert spec.key.port_zero
    if spec.key.choices:
        assert spec.required or spec.default in spec.key.choices


def test_entries_of_tables_have_words_too() -> None:
    assert all(spec.key.doc.endswith(".") for table in TABLES.values() for spec in keys_of(table))
