import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from infermesh.core.model.nodes import Address, Role
from infermesh.node.config import ConfigError, NodeConfig, load_config

Load = Callable[..., NodeConfig]

MINIMAL = '[node]\nid = "edge"\n'


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(text: str, environ: Mapping[str, str] | None = None, flags: Mapping[str, str] | None = None) -> NodeConfig:
        (tmp_path / "node.toml").write_text(text)
        return load_config(tmp_path / "node.toml", environ or {}, flags or {})

    return load


def _problems(load: Load, text: str, **sources: Mapping[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load(text, **sources)
    # Each names its place; the folder of the test is of no interest below.
    return [re.sub(r"^/\S*/node\.toml", "node.toml", problem) for problem in raised.value.problems]


def test_a_file_with_a_name_is_enough_and_the_rest_are_the_defaults_of_the_contract(load: Load, tmp_path: Path) -> None:
    config = load(MINIMAL)
    assert config.node.id == "edge"
    assert config.node.roles == {Role.ROUTER}
    assert config.client.listen == Address("127.0.0.1", 8080)
    assert config.mesh.listen == Address("127.0.0.1", 7443)
    assert config.mesh.advertise is None
    assert config.admin.listen == Address("127.0.0.1", 9090)
    assert (config.client.head_bytes_max, config.client.body_bytes_max) == (65536, 16777216)
    assert (config.client.connections_max, config.client.idle_timeout_s) == (10_000, 75.0)
    assert (config.hedging.enabled, config.hedging.budget, config.hedging.floor_ms) == (True, 0.05, 50.0)
    assert (config.retry.attempts_max, config.retry.budget) == (3, 0.2)
    assert (config.membership.heartbeat_s, config.membership.suspect_after_s) == (0.5, 1.5)
    assert (config.tracing.endpoint, config.tracing.sample_ratio) == ("", 0.01)
    assert (config.emulator.models, config.emulator.profile) == (("emulated-8b",), "h100")
    assert (config.peers, config.runtimes) == ((), ())
    assert config.trust.ca_file == tmp_path / "ca.pem"
    assert config.trust.certificate_file == tmp_path / "node.pem"
    assert config.trust.key_file == tmp_path / "node.key"
    assert config.origins == {"node.id": str(tmp_path / "node.toml")}


def test_a_full_file_is_read_with_paths_relative_to_it(load: Load, tmp_path: Path) -> None:
    config = load("""
[node]
id = "gpu-a"
roles = ["gpu", "router"]
data_dir = "state"
[trust]
domain = "example.mesh"
key_file = "/secret/node.key"
[mesh]
advertise = "gpu-a.example:7443"
[[peers]]
id = "gpu-b"
address = "[fd00::2]:7443"
zone = "z2"
[[peers]]
id = "edge"
address = "edge.example:7443"
roles = ["edge"]
[[runtimes]]
kind = "vllm"
url = "http://127.0.0.1:8000"
slots = 64
""")
    assert config.node.data_dir == tmp_path / "state"
    assert config.trust.ca_file == tmp_path / "state" / "ca.pem"
    assert config.trust.key_file == Path("/secret/node.key")
    assert config.mesh.advertise == Address("gpu-a.example", 7443)
    assert [(peer.id, peer.address, peer.roles, peer.zone) for peer in config.peers] == [
        ("gpu-b", Address("fd00::2", 7443), frozenset({Role.GPU}), "z2"),
        ("edge", Address("edge.example", 7443), frozenset({Role.EDGE}), ""),
    ]
    assert [(runtime.kind, runtime.url, runtime.slots) for runtime in config.runtimes] == [
        ("vllm", "http://127.0.0.1:8000", 64)
    ]
    assert (config.routes, config.fronts_runtimes, config.meshed) == (True, True, True)


def test_the_environment_overrides_the_file_and_flags_override_both(load: Load) -> None:
    text = MINIMAL + '[logs]\nlevel = "error"\n[client]\nlisten = "127.0.0.1:1"\nconnections_max = 5\n'
    environ = {
        "INFERMESH_CLIENT__LISTEN": "127.0.0.1:2",
        "INFERMESH_CLIENT__CONNECTIONS_MAX": "6",
        "INFERMESH_NODE__ROLES": "edge,gpu",
        "INFERMESH_TEST_SLOW": "1",
        "PATH": "/bin",
    }
    config = load(text, environ, {"client.listen": "127.0.0.1:3", "hedging.enabled": "false"})
    assert config.client.listen == Address("127.0.0.1", 3)
    assert config.client.connections_max == 6
    assert config.logs.level == "error"
    assert config.node.roles == {Role.EDGE, Role.GPU}
    assert config.hedging.enabled is False
    assert config.origins["client.listen"] == "flag client.listen"
    assert config.origins["client.connections_max"] == "environment INFERMESH_CLIENT__CONNECTIONS_MAX"
    assert config.origins["logs.level"].endswith("node.toml")


def test_peers_of_the_environment_replace_those_of_the_file(load: Load) -> None:
    text = MINIMAL + '[trust]\ndomain = "example.mesh"\n[[peers]]\nid = "gpu-a"\naddress = "a:1"\nzone = "z"\n'
    environ = {"INFERMESH_PEERS": '[{"id": "gpu-b", "address": "b:1"}]'}
    config = load(text, environ)
    assert [peer.id for peer in config.peers] == ["gpu-b"]
    assert "peers[0].zone" not in config.origins
    by_toml = load(text, {}, {"peers": '[{id = "gpu-c", address = "c:1"}]'})
    assert [peer.id for peer in by_toml.peers] == ["gpu-c"]


def test_without_a_file_the_environment_alone_can_configure_a_node() -> None:
    config = load_config(None, {"INFERMESH_NODE__ID": "edge"}, {})
    assert config.node.id == "edge"
    with pytest.raises(ConfigError, match=r"^no config file: node\.id is missing\. Name of this node"):
        load_config(None, {}, {})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "node.toml: node.id is missing. Name of this node"),
        ('[node]\nid = "../x"\n', 'node.toml: node.id = "../x" is no node id:'),
        (MINIMAL + "[client]\nlistn = 1\n", "node.toml: client.listn = 1 is no key; did you mean client.listen?"),
        (MINIMAL + "[routing]\nheartbeat_s = 1\n", "is no key; did you mean membership.heartbeat_s?"),
        (MINIMAL + "[client]\nxyzzy = 1\n", "is no key; allowed in [client]: listen, certificate_file"),
        (MINIMAL + "[clients]\n", "node.toml: [clients] is no section; did you mean client?; allowed: node, client"),
        ('client = "x"\n' + MINIMAL, 'node.toml: client = "x" is a value; client is a section: write [client]'),
        (MINIMAL + "[peers]\n", "node.toml: peers = {} is no list of tables: write [[peers]]"),
        ("peers = [1]\n" + MINIMAL, "node.toml: peers[0] = 1 is no table; allowed keys: id, address, roles, zone"),
        (MINIMAL + '[[peers]]\nid = "a"\n', "node.toml: peers[0].address is missing. Its mesh port."),
        (MINIMAL + '[[peers]]\nid = "a"\naddress = "x:1"\nadress = "x"\n', "is no key; did you mean address?"),
        (MINIMAL + '[[runtimes]]\nkind = "vlm"\nurl = "http://x:1"\n', 'kind = "vlm" is unknown; allowed: vllm'),
        (MINIMAL + '[[runtimes]]\nkind = "vllm"\nurl = "x:1"\n', 'url = "x:1" is no URL of a server'),
        (
            MINIMAL + '[tracing]\nendpoint = "http://user:pw@x"\n',
            'tracing.endpoint = "http://[redacted]@x" must hold neither user, query nor fragment',
        ),
        (MINIMAL + '[emulator]\nmodels = ["a b"]\n', "names a model 'a b' with blanks"),
        (MINIMAL + '[emulator]\nprofile = "h200"\n', 'emulator.profile = "h200" is unknown; allowed: a100'),
        (MINIMAL + "[hedging]\nbudget = 1.5\n", "hedging.budget = 1.5 is out of range; allowed: 0 to 1 share"),
        (MINIMAL + '[routing]\npolicy = "best"\n', 'routing.policy = "best" is unknown; allowed: predicted_ms'),
        (MINIMAL + '[trust]\ndomain = "Example"\n', 'trust.domain = "Example" is no trust domain:'),
        (MINIMAL + f'zone = "{"z" * 65}"\n', "is longer than 64 characters"),
        ("[node\n", "node.toml: is not TOML:"),
    ],
)
def test_a_wrong_file_is_refused_by_place_key_value_and_what_is_allowed(load: Load, text: str, problem: str) -> None:
    found = _problems(load, text)
    assert any(problem in text for text in found), found
    assert all(text.startswith("node.toml: ") for text in found)


def test_all_faults_are_told_at_once_and_a_wrong_name_is_not_also_missing(load: Load) -> None:
    text = '[node]\nid = ""\n[client]\nlisten = "x"\n[logs]\nlevel = 3\n'
    assert [problem.split(" = ")[0] for problem in _problems(load, text)] == [
        "node.toml: node.id",
        "node.toml: client.listen",
        "node.toml: logs.level",
    ]


def test_endless_faults_are_cut_in_the_message() -> None:
    error = ConfigError(tuple(f"problem {number}" for number in range(60)))
    assert str(error).splitlines()[-1] == "and 10 more"


@pytest.mark.parametrize(
    ("sources", "problem"),
    [
        (
            {"environ": {"INFERMESH_CLIENT__LISTN": "x"}},
            'environment INFERMESH_CLIENT__LISTN: client.listn = "x" is no key; did you mean client.listen?',
        ),
        (
            {"environ": {"INFERMESH_LOGS__LEVEL": "loud"}},
            'environment INFERMESH_LOGS__LEVEL: logs.level = "loud" is unknown; allowed: debug',
        ),
        (
            {"environ": {"INFERMESH_CLIENT_LISTEN": "x"}},
            'environment: INFERMESH_CLIENT_LISTEN = "x" is not read; write INFERMESH_CLIENT__LISTEN',
        ),
        ({"environ": {"INFERMESH_PEERS": "gpu-a"}}, "environment INFERMESH_PEERS: peers"),
        ({"flags": {"retry.attempts_max": "0"}}, 'flag retry.attempts_max: retry.attempts_max = "0" is out of range'),
        ({"flags": {"nonsense.key": "0"}}, "is no key; allowed sections: node, client"),
    ],
)
def test_the_environment_and_flags_are_checked_like_the_file(
    load: Load, sources: dict[str, Mapping[str, str]], problem: str
) -> None:
    [found] = _problems(load, MINIMAL, **sources)
    assert problem in found


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml: cannot be read: No such file"):
        load_config(tmp_path / "missing.toml", {}, {})
    (tmp_path / "latin").write_bytes(b"# gr\xfc\xdfe")
    with pytest.raises(ConfigError, match=r"latin: is not UTF-8: invalid start byte at byte 4"):
        load_config(tmp_path / "latin", {}, {})
    (tmp_path / "huge").write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(ConfigError, match=r"huge: is over 1048576 bytes"):
        load_config(tmp_path / "huge", {}, {})


def test_too_many_peers_are_refused(load: Load) -> None:
    entry = '[[peers]]\nid = "gpu-{0}"\naddress = "h{0}:1"\n'
    trust = '[trust]\ndomain = "example.mesh"\n'
    full = MINIMAL + trust + "".join(entry.format(number) for number in range(1000))
    assert len(load(full).peers) == 1000
    assert _problems(load, full + entry.format(1000)) == ["node.toml: peers has 1001 entries; allowed: up to 1000"]
