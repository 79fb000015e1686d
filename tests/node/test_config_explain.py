from infermesh.node.config import load_config
from infermesh.node.config_explain import REQUIRED, Row, explain
from infermesh.node.config_source import SPECS, TABLE_SPECS


def _rows(flags: dict[str, str]) -> dict[str, Row]:
    return {row.key: row for row in explain(load_config(None, {"INFERMESH_NODE__ID": "edge"}, flags))}


def test_every_key_is_there_with_unit_default_and_origin() -> None:
    rows = _rows({"client.head_timeout_s": "3"})
    tables = [f"{table}[].{name}" for table, specs in TABLE_SPECS.items() for name in specs]
    assert list(rows) == [*SPECS, *tables]
    assert rows["client.head_timeout_s"] == Row(
        key="client.head_timeout_s",
        value=3.0,
        unit="s",
        default=10.0,
        origin="flag client.head_timeout_s",
        allowed="above 0, up to 86400 s",
        doc="From the first byte of a head to its last.",
    )
    assert (rows["node.id"].value, rows["node.id"].default) == ("edge", REQUIRED)
    assert rows["node.id"].origin == "environment INFERMESH_NODE__ID"
    assert rows["node.roles"].value == ["router"]
    assert rows["mesh.advertise"].value == ""
    assert str(rows["trust.ca_file"].value).endswith("/ca.pem")
    assert rows["trust.ca_file"].default == "ca.pem in node.data_dir"
    assert rows["peers[].id"].origin == "not configured"


def test_each_entry_of_a_table_has_its_rows() -> None:
    peers = '[{"id": "a", "address": "a:1"}, {"id": "b", "address": "b:1", "zone": "z"}]'
    rows = _rows({"trust.domain": "example.mesh", "peers": peers})
    assert rows["peers[1].address"].value == "b:1"
    assert rows["peers[1].zone"].origin == "flag peers"
    assert rows["peers[0].zone"].origin == "default"
    assert "peers[].id" not in rows
