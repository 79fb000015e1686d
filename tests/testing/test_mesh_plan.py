from __future__ import annotations

from pathlib import Path

import pytest

from infermesh.node.config import ConfigError
from infermesh.testing.certificates import TrustDomain
from infermesh.testing.mesh_plan import NodeLines, RuntimeAt, gpu_name, write_config


def test_a_nodes_config_is_a_file_that_meshd_would_take(tmp_path: Path) -> None:
    files = TrustDomain(tmp_path).node("edge")
    lines = NodeLines(
        roles=["edge", "gpu"],
        settings={"hedging.budget": "0.1"},
        runtimes=[
            RuntimeAt("http://127.0.0.1:8000", slots=4),
            RuntimeAt("http://127.0.0.1:8001", kind="kserve", grpc_address=("127.0.0.1", 8002)),
        ],
        peers={"gpu-a": ("127.0.0.1", 7443)},
    )
    config = write_config(files, lines)
    assert config.node.id == "edge"
    assert config.node.roles == {"edge", "gpu"}
    assert config.hedging.budget == 0.1
    plain, kserve = config.runtimes
    assert (plain.kind, plain.url, plain.slots, plain.grpc_url) == ("emulated", "http://127.0.0.1:8000", 4, None)
    assert kserve.kind == "kserve"
    assert kserve.grpc_url is not None
    assert kserve.grpc_url.port == 8002
    assert [(peer.id, peer.address.port) for peer in config.peers] == [("gpu-a", 7443)]
    assert (files.folder / "node.toml").is_file()


def test_a_setting_that_meshd_would_refuse_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"hedging\.budgett"):
        write_config(TrustDomain(tmp_path).node("edge"), NodeLines(roles=["gpu"], settings={"hedging.budgett": "1"}))


def test_nodes_are_named_by_letters() -> None:
    assert [gpu_name(index) for index in range(3)] == ["gpu-a", "gpu-b", "gpu-c"]
