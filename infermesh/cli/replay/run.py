"""One replay from start to end: look at the server, send the plan, keep the books. Words and tables are elsewhere.

Raises CommandFailed for what a person can mend. Ctrl-C and SIGTERM stop the sending; what has happened until then
is still accounted for and reported.
"""

from __future__ import annotations

import resource
import signal
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import click
import msgspec
import trio

from infermesh.cli.exits import CommandFailed, Unreachable
from infermesh.cli.replay.client import Dial, ReplayClient, find_addresses, make_dial
from infermesh.cli.replay.driver import ReplayDriver
from infermesh.cli.replay.ledger import Ledger
from infermesh.cli.replay.plan import Arrival
from infermesh.cli.replay.progress import show_progress
from infermesh.cli.replay.prompts import PromptWriter, RequestWriter
from infermesh.net.exchange import Place, parse_url
from infermesh.net.fetch import FetchedResponse, FetchError, FetchRefusedError, fetch

EMULATED_OWNER = "infermesh-emulator"
_LOOK_DEADLINE_S = 10.0
_MODELS_BYTES_MAX = 4 * 2**20
# Descriptors beside those of connections: trio's own, files, standard streams.
_DESCRIPTORS_SPARE = 64


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    target: str  # Base URL, without /v1.
    model: str = ""  # "": the only one that the server lists.
    chat: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    prompt_scale: float = 1.0
    seed: int = 0
    timeout_s: float = 600.0
    connections_max: int = 4_096


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    ledger: Ledger
    model: str
    emulated: bool  # The server says of this model that its engine is emulated.
    sent: int  # Arrivals whose moment came.
    interrupted: bool
    connections_made: int


async def replay(arrivals: Sequence[Arrival], options: RunOptions, *, progress: bool) -> RunResult:
    place = _place_of(options.target)
    _allow_descriptors(options.connections_max)
    model, emulated = await find_model(options)
    ledger = Ledger()
    client = ReplayClient(await _dial_of(place), connections_max=options.connections_max)
    writer = RequestWriter(
        PromptWriter(seed=options.seed, scale=options.prompt_scale),
        authority=place.authority,
        base_path=place.path,
        model=model,
        chat=options.chat,
        headers=options.headers,
    )
    driver = ReplayDriver(client, writer, ledger, timeout_s=options.timeout_s)
    interrupted = await _drive_until_signal(driver, arrivals, show_progress if progress else None)
    with trio.CancelScope(shield=True):
        await client.aclose()
    return RunResult(
        ledger=ledger,
        model=model,
        emulated=emulated,
        sent=driver.due if interrupted else len(arrivals),
        interrupted=interrupted,
        connections_made=client.connections_made,
    )


async def _drive_until_signal(
    driver: ReplayDriver, arrivals: Sequence[Arrival], watch: Callable[[ReplayDriver, int], Awaitable[None]] | None
) -> bool:
    """True when a signal ended it early."""
    interrupted = False
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def stop_on_signal() -> None:
                nonlocal interrupted
                async for _ in signals:
                    interrupted = True
                    nursery.cancel_scope.cancel()

            nursery.start_soon(stop_on_signal)
            if watch is not None:
                nursery.start_soon(watch, driver, len(arrivals))
            await driver.drive(arrivals)
            nursery.cancel_scope.cancel()
    return interrupted


class _Model(msgspec.Struct):
    id: str
    owned_by: str = ""


class _Models(msgspec.Struct):
    data: list[_Model]


async def find_model(options: RunOptions) -> tuple[str, bool]:
    """(the model to ask for, whether its engine is emulated), by what the server lists."""
    url = f"{options.target.rstrip('/')}/v1/models"
    headers = [(name.encode(), value.encode()) for name, value in options.headers]
    try:
        answer = await fetch(url, deadline_s=_LOOK_DEADLINE_S, body_bytes_max=_MODELS_BYTES_MAX, headers=headers)
    except FetchError as error:
        reason = f"{url}: connection refused" if isinstance(error, FetchRefusedError) else str(error)
        raise Unreachable(f"{reason}: start the server there, or name another with --target URL") from None
    listed = _listed(url, answer)
    names = [model.id for model in listed]
    if options.model and options.model not in names:
        raise CommandFailed(f"{url} lists no model {options.model!r}: give --model one of {', '.join(names) or 'none'}")
    if not options.model and len(names) != 1:
        known = ", ".join(names) or "none yet: wait until a node has a model ready"
        raise CommandFailed(f"{url} lists {len(names)} models: give --model NAME, one of {known}")
    name = options.model or names[0]
    return name, any(model.id == name and model.owned_by == EMULATED_OWNER for model in listed)


def _listed(url: str, answer: FetchedResponse) -> list[_Model]:
    if answer.status != 200:
        raise CommandFailed(
            f"{url} answered {answer.status}: give --target the base address of an OpenAI server, without /v1"
        )
    try:
        return msgspec.json.decode(answer.body, type=_Models).data
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CommandFailed(
            f"{url} is no list of models ({error}): give --target the address of an OpenAI server"
        ) from None


def _place_of(target: str) -> Place:
    try:
        return parse_url(target)
    except FetchError as error:
        raise click.BadParameter(str(error), param_hint="--target") from None


async def _dial_of(place: Place) -> Dial:
    try:
        with trio.fail_after(_LOOK_DEADLINE_S):
            addresses = await find_addresses(place)
    except (OSError, trio.TooSlowError) as error:
        raise Unreachable(f"{place.base_url}: no address of {place.host}: {error}; correct --target") from None
    return make_dial(place, addresses, tls=ssl.create_default_context() if place.secure else None)


def _allow_descriptors(connections_max: int) -> None:
    """Raise the soft limit as far as it may be. Where that is not enough, requests fail as this client's own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections_max + _DESCRIPTORS_SPARE
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
