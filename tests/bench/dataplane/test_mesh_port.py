"""The fake GPU node, asked the way a router asks."""

from __future__ import annotations

import http.client
import ssl
import threading
from pathlib import Path

import pytest

from infermesh.core.model.state import Lifecycle, ModelState
from infermesh.planes.data.heads import parse_load
from infermesh.planes.signal.codec import decode_delta
from infermesh.planes.signal.publisher import PING_PATH, STREAM_CONTENT_TYPE, SUBSCRIBE_PATH
from infermesh.testing.certificates import TrustDomain
from tests.bench.dataplane.backend import Fleet
from tests.bench.dataplane.loop import Loop
from tests.bench.dataplane.mesh_port import MeshPort
from tests.bench.dataplane.messages import MODEL, UNARY_BODY, request_body
from wire.proto.delimited import DelimitedDecoder

pytestmark = pytest.mark.slow


class Answers:
    """What the router's side got, asked from a thread of its own while the loop serves in this one."""

    def __init__(self, port: int, tls: ssl.SSLContext) -> None:
        self._port = port
        self._tls = tls
        self.unary: tuple[int, bytes, bytes] | None = None
        self.ping_status = 0
        self.state_type = ""
        self.first_delta: object = None

    def ask(self) -> None:
        connection = http.client.HTTPSConnection("127.0.0.1", self._port, timeout=5, context=self._tls)
        try:
            connection.request("GET", PING_PATH)
            answer = connection.getresponse()
            answer.read()
            self.ping_status = answer.status
            connection.request("POST", "/v1/chat/completions", request_body("u0", stream=False))
            answer = connection.getresponse()
            self.unary = answer.status, answer.headers["x-infermesh-load"].encode(), answer.read()
            connection.request("POST", SUBSCRIBE_PATH)
            answer = connection.getresponse()
            self.state_type = answer.headers["content-type"]
            self.first_delta = decode_delta(DelimitedDecoder().feed(answer.read1(65536))[0])
        finally:
            connection.close()


def test_it_is_a_gpu_node_to_a_router(tmp_path: Path) -> None:
    domain = TrustDomain(tmp_path)
    loop = Loop()
    mesh_port = MeshPort(loop, Fleet(loop), domain.node("gpu-0").folder)
    router = domain.node("router")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname = False  # A node's name is in its SPIFFE id, which is the router's to check, not this test's.
    tls.load_verify_locations(router.ca_file)
    tls.load_cert_chain(router.certificate_file, router.key_file)
    answers = Answers(mesh_port.port, tls)
    thread = threading.Thread(target=answers.ask)
    thread.start()
    assert loop.run_until(lambda: not thread.is_alive(), 10)
    thread.join()
    loop.close()
    assert answers.ping_status == 200
    assert answers.unary is not None
    status, load, body = answers.unary
    assert (status, body) == (200, UNARY_BODY)
    assert parse_load(load) is not None
    assert answers.state_type == STREAM_CONTENT_TYPE.decode()
    assert isinstance(answers.first_delta, ModelState)
    assert (answers.first_delta.node, answers.first_delta.model) == ("gpu-0", MODEL)
    assert answers.first_delta.lifecycle is Lifecycle.READY
