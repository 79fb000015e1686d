"""The awaits of a request's life by name, and those whose cancellation is tested elsewhere.

Names are what `infermesh.testing.await_sites` reads from the sources: file, function, text.
"""

from __future__ import annotations

from infermesh.testing.await_sites import AwaitSites

FILES = (
    "net/connection.py",
    "net/dial.py",
    "net/http1/client.py",
    "net/http1/server.py",
    "net/listener.py",
    "net/pool.py",
    "net/websocket/http1.py",
    "node/assemble.py",
    "planes/data/busy.py",
    "planes/data/errors.py",
    "planes/data/frontend.py",
    "planes/data/gate.py",
    "planes/data/inference.py",
    "planes/data/local.py",
    "planes/data/models.py",
    "planes/data/peek.py",
    "planes/data/pools.py",
    "planes/data/ports.py",
    "planes/data/router_host.py",
    "planes/data/run.py",
    "planes/data/scoring_service.py",
    "planes/data/serving.py",
    "planes/signal/publisher.py",
    "planes/signal/state_service.py",
)
SITES = AwaitSites(FILES)

SERVER = "net/http1/server.py"
SHAKING_HANDS = (
    "net/pool.py: UpstreamPool._open: "
    "await connection.handshake(TlsSession(self._secure.wrap), deadline, self._secure.admit)"
)
SHAKING_HANDS_ON_ACCEPT = (
    "planes/data/ports.py: _Port._handshake: "
    "await connection.handshake(tls, trio.current_time() + parts.handshake_timeout_s, admit)"
)
SHAKING_HANDS_ON_ACCEPT_TASK = (
    "net/listener.py: Listener._serve_one: await self._serve(sock)",
    "planes/data/ports.py: MeshPort.serve: await serve_connection(connection, self._parts.log, prepare=handshake)",
    "planes/data/serving.py: serve_connection: await prepare()",
    (
        "planes/data/ports.py: MeshPort.serve.handshake: "
        "await self._handshake(connection, TlsSession(epoch.accept), admit)"
    ),
)
PARK = "net/connection.py: Connection.park: await wait_task_rescheduled(abort)"
HANDSHAKE = "net/connection.py: Connection.handshake: await self.park()"
SERVE = "net/http1/server.py: ServerConnection.serve: await self.park()"
CALL = "net/http1/server.py: ServerConnection.serve: await self._calls.popleft()()"
TASK = (
    "planes/data/serving.py: serve_connection: await speaker.serve()",
    "net/listener.py: Listener._serve_one: await self._serve(sock)",
)
CLIENT_TASK = (*TASK, "planes/data/ports.py: ClientPort.serve: await serve_connection(connection, self._parts.log)")
MESH_TASK = (
    *TASK,
    "planes/data/ports.py: MeshPort.serve: await serve_connection(connection, self._parts.log, prepare=handshake)",
)
OPENING = (
    *CLIENT_TASK,
    CALL,
    "planes/data/run.py: Run._open_pending: await pool.acquire(self.first_byte_by, fresh=attempt.stale_retried)",
)
ACQUIRE = (
    "net/pool.py: UpstreamPool.acquire: "
    "await self._open(min(deadline, trio.current_time() + self._limits.connect_timeout_s))"
)
DIALLING = (*OPENING, ACQUIRE, "net/pool.py: UpstreamPool._open: await dial(self._address, deadline)")
SUBSCRIBER_ACKS = "planes/signal/state_service.py: _take_acks: async for requests"
SUBSCRIBER_SENT = "planes/signal/publisher.py: Publisher._stream: await send(delta)"
SUBSCRIBER_ANSWERED = "planes/signal/publisher.py: Publisher._stream: await changed.wait()"
SUBSCRIBER = (
    "planes/signal/state_service.py: StateService.subscribe: await self._publisher.serve(responses.send, start.start)",
    (
        "planes/signal/publisher.py: Publisher.serve: "
        "await self._stream(send, start.resume_after if start.epoch == self.epoch else 0, stalled)"
    ),
)
WAITING = (PARK, SERVE, *CLIENT_TASK)
WEBSOCKET_WAITING = (PARK, "net/websocket/http1.py: WebSocketConnection.serve: await self.park()", *CLIENT_TASK)
WEBSOCKET_OPENING = (
    *CLIENT_TASK,
    "net/websocket/http1.py: WebSocketConnection.serve: await self._calls.popleft()()",
    "planes/data/run.py: Run._open_pending: await pool.acquire(self.first_byte_by, fresh=attempt.stale_retried)",
)
WAITING_AT_NODE = (PARK, SERVE, *MESH_TASK)
RUNNING = "node/assemble.py: Node.run: async with trio.open_nursery()"

ELSEWHERE = {
    "node/assemble.py: Node._follow: await trio.sleep(_FOLLOW_AGAIN_S)": "tests/conversations/test_defects.py",
    **{
        f"planes/data/ports.py: {site}": "tests/planes/data/test_ports.py"
        for site in (
            "ClientPort.serve: await _begins_with_tls(sock)",
            "_begins_with_tls: await trio.lowlevel.wait_readable(sock)",
            "ClientPort.serve: await self._serve_secure(sock)",
            "ClientPort._serve_secure: await serve_connection(connection, self._parts.log, prepare=handshake)",
            "ClientPort._serve_secure.handshake: await self._handshake(connection, tls, admit)",
        )
    },
    **{
        f"planes/data/scoring_service.py: ScoringService.admit: {text}": "tests/planes/data/test_scoring_service.py"
        for text in ("await waiter.told.wait()", "await trio.lowlevel.checkpoint_if_cancelled()")
    },
    "node/assemble.py: Node.run: await nursery.start(self._runtimes.run)": "before any request",
    "node/assemble.py: Node.run: "
    "await nursery.start(partial(serve_admin, config.admin.listen, self.sources, self.telemetry.log))": (
        "before any request"
    ),
    "node/assemble.py: Node._follow: "
    "await run_subscriber(peer, dialer, reports, self._log, rng=self._rng, config=config)": (
        "tests/planes/signal/test_subscriber.py"
    ),
    "net/dial.py: dial: await _resolve(address)": "tests/net/test_dial.py",
    "net/dial.py: _resolve: await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)": (
        "tests/net/test_dial.py"
    ),
    "net/dial.py: _connect: await trio.lowlevel.checkpoint()": "tests/net/test_dial.py",
    "net/listener.py: Listener.run: await self._accept_some(nursery)": "tests/net/test_listener.py",
    "net/listener.py: Listener._accept_some: await trio.sleep(_NO_DESCRIPTORS_WAIT_S)": "tests/net/test_listener.py",
    "planes/signal/state_service.py: StateService.subscribe: async with trio.open_nursery()": (
        "the subscriber's own end: tests/planes/signal/test_state_service.py"
    ),
    "planes/signal/state_service.py: StateService.subscribe: await requests.receive()": (
        "it comes with the head: tests/planes/signal/test_state_service.py"
    ),
    **{
        f"planes/signal/state_service.py: StateService.{method}: {text}": "tests/planes/signal/test_state_service.py"
        for method in ("report_model_state", "report_gpu_state")
        for text in ("async for requests", "await responses.send(pb.StateAck(sequence=state.sequence))")
    },
}
