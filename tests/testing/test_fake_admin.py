"""The fake admin port answers what was put there, and remembers what was asked."""

from __future__ import annotations

import trio

from infermesh.net.fetch import fetch
from infermesh.testing.fake_admin import FakeAdmin


def test_pages_come_as_they_were_put_and_questions_are_remembered() -> None:
    with FakeAdmin({"/v1/nodes": {"nodes": []}}) as admin:
        admin.put("/v1/score", b"plain", status=503)

        async def ask(path: str) -> tuple[int, bytes]:
            answer = await fetch(admin.url + path, deadline_s=5.0, body_bytes_max=1000)
            return answer.status, answer.body

        assert trio.run(ask, "/v1/nodes") == (200, b'{"nodes":[]}')
        assert trio.run(ask, "/v1/score?model=m") == (503, b"plain")
        assert trio.run(ask, "/other") == (404, b"")
    assert admin.asked == ["/v1/nodes", "/v1/score?model=m", "/other"]
