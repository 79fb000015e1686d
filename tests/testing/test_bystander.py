"""The assertion around every fault must fail for each thing that it promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from infermesh.testing.bystander import fault_counts, unharmed
from infermesh.testing.certificates import TrustDomain
from infermesh.testing.completions import PATH, completion_body
from infermesh.testing.mesh import running_mesh
from infermesh.testing.waiting import NeverSo, wait_until

UNKNOWN_MODEL = "edge bad_requests client unknown_model"


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> TrustDomain:
    folder: Path = tmp_path_factory.mktemp("trust")
    return TrustDomain(folder)


async def test_what_harms_nobody_and_is_counted_once_passes(trust: TrustDomain) -> None:
    async with running_mesh(trust=trust) as mesh:
        for _ in range(2):
            async with unharmed(mesh, counted={UNKNOWN_MODEL: 1}), await mesh.client() as client:
                await client.fetch("POST", PATH, completion_body(model="nobody"))
        assert fault_counts(mesh) == {UNKNOWN_MODEL: 2}


async def test_what_is_counted_under_another_name_or_not_at_all_fails(trust: TrustDomain) -> None:
    async with running_mesh(trust=trust) as mesh:
        with pytest.raises(NeverSo, match=f"counted .*{UNKNOWN_MODEL}.*, expected {{}}"):
            async with unharmed(mesh, counted={}, within_s=0.1), await mesh.client() as client:
                await client.fetch("POST", PATH, completion_body(model="nobody"))


async def test_a_bystander_whose_stream_breaks_fails(trust: TrustDomain) -> None:
    async with running_mesh(trust=trust) as mesh:
        bystander = mesh.engines[0][-1]
        with pytest.raises(AssertionError, match="the stream broke"):
            async with unharmed(mesh, counted={}):
                await bystander.kill()
        await bystander.start()


async def test_a_request_that_the_block_leaves_behind_fails(trust: TrustDomain) -> None:
    async with running_mesh(trust=trust) as mesh, await mesh.client() as client:
        driver = mesh.engine.server.drivers["emulated-8b"]
        mesh.engine.faults.frozen = True
        with pytest.raises(NeverSo, match="edge: 1 requests"):
            async with unharmed(mesh, counted={}, clients=1, within_s=0.1):
                await client.send("POST", PATH, completion_body())
                await wait_until(lambda: driver.in_flight, "it is with the engine")
        mesh.engine.faults.frozen = False
        await client.head()
