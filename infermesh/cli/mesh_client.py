"""One question to a node's mesh port, from a person who has an identity of the mesh: gRPC over mutual TLS.

Whoever answers must be a node of the same trust domain, and may be any of them: a person names an address, not a node.
Not here: what is asked. Every failure is the exit code and the sentence that it deserves.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import click
import trio

from infermesh.cli.exits import CommandFailed, Refused, Unreachable
from infermesh.core.model.nodes import Address
from infermesh.net.grpc.client import Channel, ChannelConfig
from infermesh.net.pool import PoolLimits
from infermesh.net.reactor import Reactor
from infermesh.net.timers import Timers
from infermesh.net.tls import TlsEpoch, admit_peer
from infermesh.net.tls_session import TlsSession
from infermesh.node.config_keys import ValueFault, read_address
from infermesh.node.identity import IdentityError, load_identity_in
from wire.grpc import Code, RpcError

T = TypeVar("T")

_DEADLINE_S = 5.0
_PORT_DEFAULT = 7443
_LIMITS = PoolLimits(connections_max=1, connect_timeout_s=_DEADLINE_S)


def _check_address(_context: click.Context, _option: click.Parameter, value: str | None) -> Address | None:
    if value is None:
        return None
    text = value if value.rpartition(":")[1] and not value.endswith("]") else f"{value}:{_PORT_DEFAULT}"
    try:
        return read_address(text, port_zero=False)
    except ValueFault as fault:
        raise click.BadParameter(f"{value!r} {fault}") from None


via_option = click.option(
    "--via",
    metavar="HOST:PORT",
    callback=_check_address,
    help=f"Ask the router whose mesh port this is, instead of a daemon's admin port. Port {_PORT_DEFAULT} if left out.",
)
identity_option = click.option(
    "--identity",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="With --via: who asks. The folder of any node of the mesh, as `mesh init` wrote it.",
)


def ask_mesh(address: Address, folder: Path, question: Callable[[Channel], Awaitable[T]]) -> T:
    """The answer. Raises CommandFailed or a kind of it for everything else."""
    try:
        epoch = TlsEpoch(load_identity_in(folder, time.time()))
    except IdentityError as error:
        raise CommandFailed(f"--identity {folder}: {error}") from None
    return trio.run(_ask, address, epoch, question)


class _AnyNode:
    """TLS towards whichever node of the trust domain answers."""

    def __init__(self, epoch: TlsEpoch) -> None:
        self._epoch = epoch
        self.shaken = False
        self.failure = ""

    def wrap(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        return self._epoch.client_http2.wrap_bio(incoming, outgoing)

    def admit(self, tls: TlsSession) -> None:
        domain = self._epoch.identity.trust_domain
        admit_peer(tls.object, trust_domain=domain, expected_node=None, now_unix=time.time())
        self.shaken = True

    def remember(self, tls: TlsSession) -> None: ...
    def failed(self, why: str) -> None:
        self.failure = why


async def _ask(address: Address, epoch: TlsEpoch, question: Callable[[Channel], Awaitable[T]]) -> T:
    secure = _AnyNode(epoch)
    crashes: list[Exception] = []
    reactor, timers = Reactor(on_crash=crashes.append), Timers(on_crash=crashes.append)
    failure: RpcError | None = None
    answers: list[T] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reactor.run)
        nursery.start_soon(timers.run)
        config = ChannelConfig(timeout_s=_DEADLINE_S)
        channel = Channel.to(
            (address.host, address.port), reactor, timers, secure=secure, limits=_LIMITS, config=config
        )
        try:
            answers.append(await question(channel))
        except RpcError as error:
            failure = error
        channel.close()
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise _failure(address, secure, failure)
    if crashes:
        raise crashes[0]
    return answers[0]


def _failure(address: Address, secure: _AnyNode, error: RpcError) -> CommandFailed:
    if _is_refusal_of_tls(secure, error):
        return Refused(
            f"the mesh port at {address} and the identity given do not trust each other ({secure.failure or error}): "
            "give --identity the folder of a node of that mesh, with a certificate that has not expired"
        )
    match error.code:
        case Code.UNAVAILABLE | Code.DEADLINE_EXCEEDED:
            return Unreachable(
                f"no answer from the mesh port at {address} ({error.message}): start meshd there, or give --via the "
                "mesh port of another router"
            )
        case Code.UNIMPLEMENTED:
            return CommandFailed(
                f"{address} does not know the question ({error.message}): it is no router, or of another release; give "
                "--via the mesh port of a router"
            )
        case Code.PERMISSION_DENIED | Code.UNAUTHENTICATED:
            return Refused(f"{address} refused: {error.message}")
        case _:
            return CommandFailed(f"{address} answered {error.code.name}: {error.message or 'no reason given'}")


def _is_refusal_of_tls(secure: _AnyNode, error: RpcError) -> bool:
    """Not admitted here, or there: in TLS 1.3 the server looks at our certificate when our side is done already, and
    closes a connection that is ready before it has heard a word."""
    if error.code is not Code.UNAVAILABLE:
        return False
    return (secure.failure != "" and not secure.failure.startswith("closed by")) or secure.shaken
