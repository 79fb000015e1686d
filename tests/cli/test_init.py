"""`mesh init`, run as a command: what it writes, what it keeps, what it says, and what it never says."""

from __future__ import annotations

import json
import stat
import time
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from infermesh.cli.init import init
from infermesh.core.model.names import NodeId
from infermesh.node.authority import Authority
from infermesh.node.identity import load_identity
from infermesh.testing.certificates import NodeFiles


def _run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(init, [str(argument) for argument in arguments])


def _make(folder: Path, *more: str) -> Result:
    result = _run("--dir", folder, "--domain", "test.mesh", "--node", "edge", "--node", "gpu-a", *more)
    assert result.exit_code == 0, result.output
    return result


def _files(folder: Path, node: str, domain: str = "test.mesh") -> NodeFiles:
    return NodeFiles(
        domain=domain,
        node=NodeId(node),
        folder=folder / node,
        certificate_file=folder / node / "node.pem",
        key_file=folder / node / "node.key",
        ca_file=folder / node / "ca.pem",
    )


def _snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_nodes_that_it_makes_can_start(tmp_path: Path) -> None:
    _make(tmp_path / "mesh")
    for node in ("edge", "gpu-a"):
        identity = load_identity(_files(tmp_path / "mesh", node), NodeId(node), time.time())
        assert 86_300 < identity.not_after - time.time() <= 86_400


def test_keys_and_folders_are_for_their_owner_alone(tmp_path: Path) -> None:
    _make(tmp_path / "mesh", "--config")
    for path in [tmp_path / "mesh", *(tmp_path / "mesh").rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        if path.is_dir():
            assert mode == 0o700, path
        elif path.suffix == ".key":
            assert mode == 0o600, path
        else:
            assert mode in (0o600, 0o644), path


def test_it_says_what_it_did_and_what_to_do_next(tmp_path: Path) -> None:
    folder = tmp_path / "mesh"
    text = _make(folder).stdout
    assert text.startswith("Trust domain test.mesh: made a CA, valid until ")
    assert "spiffe://test.mesh/node/gpu-a: certificate made, new key, valid until 2" in text
    for word in (f"Keep {folder / 'ca.key'} here", "scp -rp", "meshd --config", "mesh ca renew --dir", "data_dir"):
        assert word in text


def test_nothing_of_a_key_is_printed(tmp_path: Path) -> None:
    folder = tmp_path / "mesh"
    shown = _make(folder, "--config").output + _make(folder, "--json").output
    for key_file in folder.rglob("*.key"):
        for line in key_file.read_text().splitlines()[1:-1]:
            assert line[:16] not in shown


def test_run_again_it_renews_certificates_and_keeps_ca_and_keys(tmp_path: Path) -> None:
    folder = tmp_path / "mesh"
    _make(folder)
    before = _snapshot(folder)
    text = _make(folder).stdout
    after = _snapshot(folder)
    assert {name for name in before if before[name] != after[name]} == {"edge/node.pem", "gpu-a/node.pem"}
    assert before.keys() == after.keys()
    assert "used the CA that is there" in text
    assert "certificate renewed, same key" in text


def test_a_node_is_added_without_naming_the_domain_again(tmp_path: Path) -> None:
    folder = tmp_path / "mesh"
    _make(folder)
    before = _snapshot(folder)
    result = _run("--dir", folder, "--node", "gpu-b")
    assert result.exit_code == 0, result.output
    after = _snapshot(folder)
    assert {name: after[name] for name in before} == before
    assert load_identity(_files(folder, "gpu-b"), NodeId("gpu-b"), time.time()).node == "gpu-b"


def test_the_json_document_is_alone_on_stdout_and_names_every_file(tmp_path: Path) -> None:
    folder = tmp_path / "mesh"
    result = _make(folder, "--json", "--days", "2", "--config")
    document = json.loads(result.stdout)
    assert result.stderr == ""
    assert document["trust_domain"] == "test.mesh"
    assert document["dir"] == str(folder)
    assert document["ca"]["created"] is True
    assert document["warnings"] == []
    assert [node["node"] for node in document["nodes"]] == ["edge", "gpu-a"]
    node = document["nodes"][1]
    assert node["spiffe_id"] == "spiffe://test.mesh/node/gpu-a"
    assert (node["action"], node["new_key"], node["config_written"]) == ("created", True, True)
    for key in ("certificate_file", "key_file", "ca_file", "config_file"):
        assert Path(node[key]).is_file()
    assert node["not_before"] < node["not_after"]
    again = json.loads(_make(folder, "--json").stdout)
    assert again["ca"]["created"] is False
    assert [(n["action"], n["new_key"], n["config_file"]) for n in again["nodes"]] == [("renewed", False, None)] * 2


def test_days_set_the_life_of_certificates(tmp_path: Path) -> None:
    _make(tmp_path / "mesh", "--days", "30")
    identity = load_identity(_files(tmp_path / "mesh", "edge"), NodeId("edge"), time.time())
    assert identity.not_after - time.time() == pytest.approx(30 * 86_400, abs=60)


def test_a_node_given_twice_is_made_once(tmp_path: Path) -> None:
    document = json.loads(_make(tmp_path / "mesh", "--node", "edge", "--json").stdout)
    assert [node["node"] for node in document["nodes"]] == ["edge", "gpu-a"]


def test_a_relative_folder_is_told_as_an_absolute_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    document = json.loads(_make(Path("mesh"), "--json").stdout)
    assert document["dir"] == str(tmp_path / "mesh")


def test_force_makes_a_new_ca_and_names_the_nodes_left_behind(tmp_path: Path) -> None:
    folder = tmp_path / "mesh"
    _make(folder)
    before = _snapshot(folder)
    result = _run("--dir", folder, "--domain", "test.mesh", "--node", "edge", "--force")
    assert result.exit_code == 0, result.output
    after = _snapshot(folder)
    for name in ("ca.key", "ca.pem", "edge/node.key", "edge/node.pem", "edge/ca.pem"):
        assert before[name] != after[name], name
    assert before["gpu-a/node.key"] == after["gpu-a/node.key"]
    assert "Warning: the CA was replaced: gpu-a still hold" in result.stderr
    assert f"mesh ca renew --dir {folder}" in result.stderr
    load_identity(_files(folder, "edge"), NodeId("edge"), time.time())


def test_another_domain_for_an_existing_ca_fails_and_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "mesh"
    _make(folder)
    before = _snapshot(folder)
    result = _run("--dir", folder, "--domain", "other.mesh", "--node", "edge")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "holds the CA of trust domain 'test.mesh', not of 'other.mesh'" in result.stderr
    assert _snapshot(folder) == before


def test_a_failure_under_json_leaves_stdout_empty(tmp_path: Path) -> None:
    folder = tmp_path / "mesh"
    _make(folder)
    (folder / "ca.key").chmod(0o644)
    result = _run("--dir", folder, "--node", "edge", "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"chmod 600 {folder}/ca.key" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--domain", "d", "--node", "a"), "Missing option '--dir'"),
        (("--dir", "D", "--domain", "d"), "Missing option '--node'"),
        (("--dir", "D", "--node", "a"), "--domain NAME is needed to make a new CA"),
        (("--dir", "D", "--domain", "Test.Mesh", "--node", "a"), "trust domain 'Test.Mesh' has characters"),
        (("--dir", "D", "--domain", "d:80", "--node", "a"), "no port"),
        (("--dir", "D", "--domain", "d", "--node", "a/b"), "node id 'a/b' must be letters"),
        (("--dir", "D", "--domain", "d", "--node", ".."), "node id '..' must be letters"),
        (("--dir", "D", "--domain", "d", "--node", "ca.key"), "take another"),
        (("--dir", "D", "--domain", "d", "--node", "a", "--days", "0"), "is not in the range 1<=x<=825"),
        (("--dir", "D", "--domain", "d", "--node", "a", "--days", "x"), "is not a valid integer"),
        (("--dir", "D", "--domain", "d", "--node", "a", "--nope"), "No such option"),
    ],
)
def test_wrong_usage_exits_2_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = _run(*arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_a_folder_fails_in_words(tmp_path: Path) -> None:
    folder = tmp_path / "mesh"
    _make(folder)
    (folder / "gpu-b").write_text("in the way")
    result = _run("--dir", folder, "--node", "gpu-b")
    assert result.exit_code == 1
    assert "cannot issue a certificate for node gpu-b" in result.stderr


def test_starter_configs_name_identity_and_all_peers(tmp_path: Path) -> None:
    folder = tmp_path / "mesh"
    _make(folder)
    _make(folder, "--config", "--node", "gpu-b")
    config = tomllib.loads((folder / "gpu-a" / "node.toml").read_text())
    assert config["node"]["id"] == "gpu-a"
    assert config["node"]["data_dir"] == str(folder / "gpu-a")
    assert config["trust"] == {"domain": "test.mesh"}
    assert [(peer["id"], peer["address"]) for peer in config["peers"]] == [
        ("edge", "edge:7443"),
        ("gpu-b", "gpu-b:7443"),
    ]


def test_a_folder_with_a_strange_name_makes_a_config_that_parses(tmp_path: Path) -> None:
    folder = tmp_path / 'a "mesh" \\ \u00e9'
    _make(folder, "--config")
    config = tomllib.loads((folder / "edge" / "node.toml").read_text())
    assert config["node"]["data_dir"] == str(folder / "edge")


def test_a_config_that_somebody_edited_is_kept_with_force_too(tmp_path: Path) -> None:
    folder = tmp_path / "mesh"
    _make(folder, "--config")
    (folder / "edge" / "node.toml").write_text("# mine\n")
    text = _make(folder, "--config", "--force").stdout
    assert (folder / "edge" / "node.toml").read_text() == "# mine\n"
    assert f"{folder / 'edge' / 'node.toml'}: was there, kept as it is" in text


def test_a_certificate_that_ends_with_the_ca_is_pointed_out(tmp_path: Path) -> None:
    folder = tmp_path / "mesh"
    result = _make(folder, "--ca-days", "1", "--days", "7", "--json")
    warnings = json.loads(result.stdout)["warnings"]
    assert len(warnings) == 2
    assert "ends with the CA" in warnings[0]
    assert Authority.open(folder, now_unix=time.time()).not_after == pytest.approx(time.time() + 86_400, abs=60)


def test_help_has_examples() -> None:
    text = _run("--help").stdout
    assert "mesh init --dir mesh --domain example.mesh --node edge --node gpu-a" in text
    assert "A CA or a key that exists is never replaced without --force" in " ".join(text.split())
