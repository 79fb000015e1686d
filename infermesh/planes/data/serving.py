"""Serve one connection: its requests one after the other, each answered or refused, until it is gone.

The same for the client port and the mesh port; `answer` is what differs. No exception of one connection leaves
its task: what is a peer's doing ends the connection, what is a defect of ours is logged and ends it too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from infermesh.net.asker import Asker, Request, SlowCall
from infermesh.net.connection import ConnectionLost
from infermesh.net.http1 import Answer, Refusal, ServerConnection, Successor
from infermesh.net.http1.server import REASONS
from infermesh.observe.logs import Logger
from infermesh.planes.data.errors import JSON_TYPE, RequestRefused, error_body
from wire.http1 import Field, encode_response_head


async def serve_connection(
    connection: ServerConnection, log: Logger, *, prepare: Callable[[], Awaitable[None]] | None = None
) -> None:
    """The connection's task, also for the protocols that its socket is handed to. `prepare`: its TLS handshake."""
    speaker: Successor | None = connection
    try:
        with connection.scope:
            if prepare is not None:
                await prepare()
            while speaker is not None:
                await speaker.serve()
                speaker = connection.successor if speaker is connection else None
    except ConnectionLost:
        pass  # How the connection ended is counted where it was found.
    except Exception:
        log.error("connection_crashed", exc_info=True)
    finally:
        connection.abort()
        if connection.successor is not None:
            connection.successor.abort()


def refusing(answer: Answer) -> Answer:
    """`answer`, whose RequestRefused becomes the response that it describes."""

    def answer_or_refuse(connection: ServerConnection, request: Request) -> SlowCall | None:
        try:
            return answer(connection, request)
        except RequestRefused as refused:
            send_refusal(connection, refused, request.head.method)
            return None

    return answer_or_refuse


def send_refusal(asker: Asker, refused: RequestRefused, method: bytes, fields: Sequence[Field] = ()) -> None:
    added: list[Field] = [JSON_TYPE, *fields]
    if refused.retry_after_s is not None:
        # Whole seconds (RFC 9110 section 10.2.3), rounded up: earlier would be turned away again.
        added.append((b"retry-after", b"%d" % max(1, -int(-refused.retry_after_s // 1))))
    if refused.allow:
        added.append((b"allow", refused.allow.encode()))
    body = error_body(refused.status, refused.code, refused.message, refused.param)
    asker.respond(refused.status, added, body, method=method)


def refusal_bytes(refusal: Refusal) -> bytes:
    """The answer to a request that never became one; the connection ends after it."""
    body = error_body(refusal.status, refusal.reason, refusal.message)
    fields = [JSON_TYPE, (b"content-length", b"%d" % len(body)), (b"connection", b"close")]
    if refusal.status == 503:
        fields.append((b"retry-after", b"1"))
    return encode_response_head(refusal.status, REASONS.get(refusal.status, b"Error"), fields) + body


def counted_refusals(count: Callable[[str], None]) -> Callable[[Refusal], bytes]:
    """`refusal_bytes`, after telling `count` the reason."""

    def refuse(refusal: Refusal) -> bytes:
        count(refusal.reason)
        return refusal_bytes(refusal)

    return refuse
