"""Programs of other people: curl, nghttp and h2load ask our server, and our pool asks nghttpd."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio

from infermesh.net.http1 import ServerLimits
from infermesh.net.http2 import Http2Pool
from infermesh.net.pool import PoolLimits
from infermesh.testing.reactors import running_reactor
from tests.net.http2.asking import Sink, get, post
from tests.net.http2.serving import Served, serving

pytestmark = [pytest.mark.interop, pytest.mark.slow]


def needs(name: str) -> str:
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


async def run(*command: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return await trio.run_process(list(command), stdin=input, capture_stdout=True, capture_stderr=True, check=False)


def url(served: Served, path: str) -> str:
    return "http://{}:{}{}".format(*served.address, path)


async def test_curl_asks_with_prior_knowledge() -> None:
    curl = needs("curl")
    body = bytes(range(256)) * 4_000
    async with serving() as served:
        said = await run(
            curl, "-sS", "--http2-prior-knowledge", "--data-binary", "@-", url(served, "/echo"), input=body
        )
        assert said.stdout == body
        said = await run(curl, "-sS", "--http2-prior-knowledge", url(served, "/big?5000000"))
        assert len(said.stdout) == 5_000_000
        said = await run(curl, "-sSI", "--http2-prior-knowledge", url(served, "/"))
        assert said.stdout.startswith(b"HTTP/2 200")
        assert b"content-length: 5" in said.stdout
        assert served.faults == []


async def test_curl_is_told_that_its_body_is_too_large() -> None:
    curl = needs("curl")
    async with serving(limits=ServerLimits(body_bytes_max=1000)) as served:
        said = await run(
            curl, "-sS", "--http2-prior-knowledge", "-w", "%{http_code}", "--data-binary", "@-", url(served, "/echo"),
            input=bytes(3_000_000),
        )  # fmt: skip
        assert said.stdout.endswith(b"413"), said.stderr


async def test_nghttp_asks_for_several_things_at_once() -> None:
    nghttp = needs("nghttp")
    async with serving() as served:
        said = await run(nghttp, "-ns", *(url(served, path) for path in ("/", "/slow", "/big?300000")))
        text = said.stdout.decode()
        assert len(re.findall(r" 200 ", text)) == 3
        assert len(served.connections) == 1
        assert served.faults == []


async def test_h2load_finds_every_request_answered() -> None:
    h2load = needs("h2load")
    async with serving() as served:
        for path, count in (("/", 5000), ("/slow", 2000), ("/big?100000", 300)):
            said = await run(h2load, "-n", str(count), "-c", "10", "-m", "20", url(served, path))
            assert f"{count} succeeded, 0 failed, 0 errored".encode() in said.stdout
        assert served.faults == []


@contextmanager
def nghttpd(folder: Path) -> Iterator[tuple[str, int]]:
    program = needs("nghttpd")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = unused.getsockname()
    command = [program, "--no-tls", "--address=127.0.0.1", "-d", str(folder), "--echo-upload", str(address[1])]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield address
    finally:
        process.kill()
        process.wait()


@asynccontextmanager
async def pool_to(address: tuple[str, int]) -> AsyncIterator[Http2Pool]:
    async with running_reactor() as running:
        pool = Http2Pool(address, running.reactor, running.timers, limits=PoolLimits())
        with trio.fail_after(20):
            while not await _listens(address):
                await trio.sleep(0.02)
            yield pool
        pool.close()


async def _listens(address: tuple[str, int]) -> bool:
    try:
        await trio.aclose_forcefully(await trio.open_tcp_stream(*address))
    except OSError:
        return False
    return True


async def test_our_pool_asks_nghttpd(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"z" * 3_000_000)
    (tmp_path / "small").write_bytes(b"zz")
    with nghttpd(tmp_path) as address:
        async with pool_to(address) as pool:

            async def fetch(sink: Sink, fields: list[tuple[bytes, bytes]], body: bytes = b"") -> None:
                up = pool.take_idle() or await pool.acquire(trio.current_time() + 5)
                up.open(fields, sink, data=body)
                await sink.ended.wait()

            large, missing, echoed = Sink(), Sink(), Sink()
            small = [Sink() for _ in range(200)]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fetch, large, get(b"/file"))
                nursery.start_soon(fetch, missing, get(b"/nothing"))
                nursery.start_soon(fetch, echoed, post(b"/"), b"e" * 1_000_000)
                for sink in small:
                    nursery.start_soon(fetch, sink, get(b"/small"))
            assert (len(large.body), large.ends) == (3_000_000, 1)
            assert missing.heads[0].status == 404
            assert bytes(echoed.body) == b"e" * 1_000_000
            assert [bytes(sink.body) for sink in small] == [b"zz"] * 200
