"""`mesh ca renew` and `mesh ca show`, run as commands."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from infermesh.cli.ca import ca
from infermesh.core.model.names import NodeId
from infermesh.node.identity import load_identity
from infermesh.testing.bad_certificates import DAY_S, REASONS, BadCertificate
from infermesh.testing.certificates import TrustDomain


def _run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(ca, [str(argument) for argument in arguments])


@pytest.fixture
def domain(tmp_path: Path) -> TrustDomain:
    return TrustDomain(tmp_path)


def test_a_renewed_certificate_starts_the_node_that_an_expired_one_did_not(tmp_path: Path) -> None:
    old = TrustDomain(tmp_path, now_unix=time.time() - 2 * DAY_S)
    files = old.node("gpu-a")
    key = files.key_file.read_bytes()
    result = _run("renew", "--dir", old.authority.folder, "--node", "gpu-a")
    assert result.exit_code == 0, result.output
    assert "spiffe://test.mesh/node/gpu-a: certificate renewed, same key" in result.stdout
    assert "copy node.pem to the node's data_dir" in result.stdout
    assert files.key_file.read_bytes() == key
    assert load_identity(files, NodeId("gpu-a"), time.time()).not_after > time.time() + DAY_S - 60


def test_a_new_key_is_made_when_asked_for(domain: TrustDomain) -> None:
    files = domain.node("gpu-a")
    key = files.key_file.read_bytes()
    result = _run("renew", "--dir", domain.authority.folder, "--node", "gpu-a", "--new-key", "--json")
    document = json.loads(result.stdout)
    assert [(node["node"], node["new_key"]) for node in document["nodes"]] == [("gpu-a", True)]
    assert files.key_file.read_bytes() != key
    assert files.key_file.read_text().splitlines()[1] not in result.output
    load_identity(files, NodeId("gpu-a"), time.time())


def test_a_node_that_is_not_known_is_not_made_by_a_slip_of_the_hand(domain: TrustDomain) -> None:
    domain.node("gpu-a")
    result = _run("renew", "--dir", domain.authority.folder, "--node", "gpu-a", "--node", "gpu-q")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "holds no certificate of node 'gpu-q' (it knows: gpu-a)" in result.stderr
    assert "mesh init --dir" in result.stderr
    assert not (domain.authority.folder / "gpu-q").exists()


def test_without_a_ca_the_command_that_makes_one_is_named(tmp_path: Path) -> None:
    result = _run("renew", "--dir", tmp_path / "none", "--node", "gpu-a")
    assert result.exit_code == 1
    assert "holds no CA" in result.stderr
    assert "mesh init --dir" in result.stderr


def test_a_bad_node_id_is_wrong_usage(tmp_path: Path) -> None:
    assert _run("renew", "--dir", tmp_path, "--node", "../x").exit_code == 2


def test_a_good_certificate_is_shown_with_no_problems(domain: TrustDomain) -> None:
    files = domain.node("gpu-a")
    result = _run("show", files.certificate_file, "--ca", files.ca_file)
    assert result.exit_code == 0, result.output
    rows = {line[:14].strip(): line[14:] for line in result.stdout.splitlines()}
    assert rows["kind"] == "node certificate"
    assert rows["SPIFFE id"] == "spiffe://test.mesh/node/gpu-a"
    assert rows["key"] == "ECDSA secp256r1"
    assert rows["signed by CA"] == "yes"
    assert rows["problems"] == "none"
    assert rows["valid"].endswith("(ends in 24.0 h)")


def test_a_ca_is_shown_as_one(domain: TrustDomain) -> None:
    document = json.loads(_run("show", domain.ca_file, "--json").stdout)
    (shown,) = document["certificates"]
    assert (shown["kind"], shown["spiffe_id"], shown["node"]) == ("ca", "spiffe://test.mesh", None)
    assert shown["problems"] == []


@pytest.mark.parametrize("kind", BadCertificate)
def test_a_bad_certificate_exits_1_with_its_problem_in_the_document(domain: TrustDomain, kind: BadCertificate) -> None:
    files = domain.bad(kind)
    result = _run("show", files.certificate_file, "--ca", domain.ca_file, "--json")
    (shown,) = json.loads(result.stdout)["certificates"]
    if REASONS[kind] == "trust_domain" or kind is BadCertificate.OTHER_NODE:
        # Wrong only for somebody who expects another domain or node, which `show` cannot know.
        assert (result.exit_code, shown["problems"]) == (0, [])
        return
    assert result.exit_code == 1
    reasons = {problem["reason"] for problem in shown["problems"]}
    if kind is BadCertificate.CA_LEAF:
        assert reasons == {"not_a_signer", "spiffe_id"}
    else:
        assert reasons == {REASONS[kind] or "signature"}


def test_problems_are_shown_in_words_one_a_line(domain: TrustDomain) -> None:
    result = _run("show", domain.bad(BadCertificate.TWO_SPIFFE_IDS).certificate_file)
    assert result.exit_code == 1
    assert "problems      san: has 2 URI names in subjectAltName where exactly 1 must be" in result.stdout


def test_a_private_key_is_named_and_not_shown(domain: TrustDomain) -> None:
    files = domain.node("gpu-a")
    result = _run("show", files.key_file)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "holds a private key where a certificate must be" in result.stderr
    assert files.key_file.read_text().splitlines()[1][:16] not in result.output


@pytest.mark.parametrize("json_flag", [(), ("--json",)])
def test_a_file_that_is_missing_or_rubbish_fails_in_words(tmp_path: Path, json_flag: tuple[str, ...]) -> None:
    result = _run("show", tmp_path / "none.pem", *json_flag)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "does not exist" in result.stderr
    (tmp_path / "rubbish.pem").write_text("rubbish")
    assert "is not a PEM certificate" in _run("show", tmp_path / "rubbish.pem", *json_flag).stderr


def test_a_bundle_is_shown_whole(domain: TrustDomain, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(domain.ca_file.read_bytes() + domain.node("gpu-a").certificate_file.read_bytes())
    kinds = [shown["kind"] for shown in json.loads(_run("show", bundle, "--json").stdout)["certificates"]]
    assert kinds == ["ca", "node"]


@pytest.mark.parametrize("command", ["renew", "show"])
def test_help_has_examples(command: str) -> None:
    assert f"  mesh ca {command} " in _run(command, "--help").stdout
