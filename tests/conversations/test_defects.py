"""A defect of ours where it hurts least: whoever is not concerned is served on."""

from __future__ import annotations

import pytest
import trio

from infermesh.node import assemble
from infermesh.planes.signal.subscriber import run_subscriber
from infermesh.testing.certificates import TrustDomain
from infermesh.testing.completions import PATH, completion_body
from infermesh.testing.mesh import running_mesh


@pytest.mark.slow
async def test_a_defect_in_following_a_peer_is_logged_and_the_peer_followed_again(
    trust: TrustDomain, monkeypatch: pytest.MonkeyPatch
) -> None:
    defects = [RuntimeError("a part that broke")]

    async def breaking(*parts: object, **settings: object) -> None:
        await trio.lowlevel.checkpoint()
        if defects:
            raise defects.pop()
        await run_subscriber(*parts, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(assemble, "run_subscriber", breaking)
    # The harness holds every logged error against a test; this one is wanted, and once.
    with pytest.raises(AssertionError, match="a node logged an error") as caught:
        async with running_mesh(trust=trust) as mesh, await mesh.client() as client:
            answer = await client.fetch("POST", PATH, completion_body("hello"))
            assert answer.status == 200
            [line] = mesh.log("state_follower_crashed")
            assert line["peer"] == "gpu-a"
    assert str(caught.value).count('"level":"error"') == 1
