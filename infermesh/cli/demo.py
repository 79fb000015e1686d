"""`mesh demo`: an edge and GPU nodes of different speed as processes with real mTLS, under load, for people to watch.

The engines are emulated and say so. Everything else is what runs in earnest: the daemon, the configs, the
certificates. Nothing is left behind: no process, and no file unless `--keep` names a place for them.
"""

from __future__ import annotations

import contextlib
import math
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import trio

from infermesh.cli.admin_client import AdminConnection
from infermesh.cli.admin_shapes import SummaryPage
from infermesh.cli.demo_document import DemoDocument, KillTimes, Times, document_lines, make_document
from infermesh.cli.demo_drills import kill_and_restart, slow_down
from infermesh.cli.demo_load import LoadOptions, demo_arrivals
from infermesh.cli.demo_view import DemoView
from infermesh.cli.exits import CommandFailed
from infermesh.cli.fleet.launch import Fleet, FleetOptions, open_fleet
from infermesh.cli.fleet.plan import GPUS_MAX, MODEL
from infermesh.cli.output import json_option, show, show_json
from infermesh.cli.replay.client import ReplayClient, find_addresses, make_dial
from infermesh.cli.replay.driver import ReplayDriver
from infermesh.cli.replay.ledger import Ledger
from infermesh.cli.replay.prompts import PromptWriter, RequestWriter
from infermesh.net.exchange import parse_url

_EXAMPLES = """\b
Examples:
  mesh demo
  mesh demo --gpus 5 --rate 30
  mesh demo --once --json
  mesh demo --once --kill
  INFERMESH_ROUTING__POLICY=round_robin mesh demo
"""

_RATE_PER_S = 12.0
_REQUESTS_ONCE = 120
_REQUESTS_KILL = 300  # Long enough to see the node leave and come back.
_TIMEOUT_S = 60.0
_CONNECTIONS_MAX = 512
_KEPT_MAX = 20_000  # Requests remembered one by one in a demo that runs for days.
_TIDY_EVERY_S = 60.0
# When the drills begin: some answers must have come, so that the edge knows its nodes.
_SLOW_AFTER_S = 3.0
_KILL_AFTER_S = 4.0


class DemoOptions(msgspec.Struct, frozen=True, kw_only=True):
    fleet: FleetOptions
    load: LoadOptions
    kill: bool
    slow: bool
    idle: bool  # No request is sent.

    @property
    def endless(self) -> bool:
        return not self.load.requests_max and not self.load.span_s_max


@click.command(short_help="A whole mesh on this machine, with emulated engines.", epilog=_EXAMPLES)
@click.option("--gpus", type=click.IntRange(1, GPUS_MAX), default=3, show_default=True, help="GPU nodes.")
@click.option("--once", is_flag=True, help=f"A bounded run of {_REQUESTS_ONCE} requests, then end.")
@click.option("--requests", type=click.IntRange(1), metavar="N", help="End after N requests.")
@click.option("--duration", "duration_s", type=click.FloatRange(1.0), metavar="S", help="End after S seconds of load.")
@click.option(
    "--rate",
    "rate_per_s",
    type=click.FloatRange(0.1, 1_000.0),
    default=_RATE_PER_S,
    show_default=True,
    metavar="R",
    help="Requests a second, whatever the mesh does.",
)
@click.option("--no-load", is_flag=True, help="Send nothing: a mesh for your own clients, or for `mesh bench`.")
@click.option("--kill", is_flag=True, help="Kill a GPU node under load and start it again; shows how long each takes.")
@click.option(
    "--speed",
    type=click.FloatRange(0.01, 100.0),
    default=1.0,
    show_default=True,
    help="Factor on the speed of all engines; 1 is the speed of the hardware that they emulate.",
)
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Keep configs, keys and logs there.")
@click.option(
    "--port",
    "port_base",
    type=click.IntRange(1024, 65_000),
    metavar="BASE",
    help="First of the ports to use. Left out: 8080 and 9090 for the edge where free, any others.",
)
@json_option
def demo(
    gpus: int,
    requests: int | None,
    duration_s: float | None,
    rate_per_s: float,
    speed: float,
    keep: Path | None,
    port_base: int | None,
    *,
    once: bool,
    no_load: bool,
    kill: bool,
    as_json: bool,
) -> None:
    """Start a mesh on this machine: an edge and GPU nodes of different speed, with mTLS between them.

    It serves on the addresses that it prints, sends itself requests, and shows where they go. Some of its clients
    leave halfway, and with an end in sight one engine is slow for a moment, so that there is something to see.
    Ctrl-C stops it. Exit code 0 when no request failed, but for streams that flowed from a node killed by --kill.
    """
    if no_load and (once or requests or kill):
        raise click.UsageError("--no-load sends no request, so --once, --requests and --kill say nothing beside it")
    bounded = (_REQUESTS_KILL if kill else _REQUESTS_ONCE) if once and not duration_s else 0
    with _folder(keep) as folder:
        options = DemoOptions(
            fleet=FleetOptions(gpus=gpus, speed=speed, folder=folder, port_base=port_base or 0),
            load=LoadOptions(rate_per_s=rate_per_s, requests_max=requests or bounded, span_s_max=duration_s or 0.0),
            kill=kill,
            slow=not kill and not no_load and gpus > 1 and bool(once or requests or duration_s),
            idle=no_load,
        )
        view = DemoView(quiet=as_json)
        document = trio.run(_run, options, view)
    if document is None:
        raise CommandFailed("stopped before the mesh was ready")
    if as_json:
        show_json(document)
    else:
        show("", *document_lines(document))
    if not document.succeeded:
        raise click.exceptions.Exit(1)


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="infermesh-demo-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


async def _run(options: DemoOptions, view: DemoView) -> DemoDocument | None:
    """None when a signal came before the fleet was ready."""
    document: DemoDocument | None = None
    failure: CommandFailed | None = None
    # The first signal ends what is under way, the second one also the orderly end of it.
    starting, loading = trio.CancelScope(), trio.CancelScope()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:

            async def stop_on_signal() -> None:
                async for _ in signals:
                    if loading.cancel_called:
                        nursery.cancel_scope.cancel()
                    starting.cancel()
                    loading.cancel()

            nursery.start_soon(stop_on_signal)
            try:
                document = await _demonstrate(options, view, starting, loading)
            except CommandFailed as error:
                failure = error
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return document


async def _demonstrate(
    options: DemoOptions, view: DemoView, starting: trio.CancelScope, loading: trio.CancelScope
) -> DemoDocument | None:
    began = trio.current_time()
    fleet: Fleet | None = None
    kill: KillTimes | None = None
    ledger = Ledger()
    async with contextlib.AsyncExitStack() as stack:
        with starting:
            fleet = await stack.enter_async_context(open_fleet(options.fleet, view.tell))
        if fleet is None:
            return None
        ready_at = trio.current_time()
        view.greet(fleet.plan)
        with loading:
            kill = await _load(options, fleet, ledger, view)
        loaded_at = trio.current_time()
        totals = await _totals(fleet)
    times = Times(started_in_s=ready_at - began, load_s=loaded_at - ready_at, duration_s=trio.current_time() - began)
    return make_document(ledger, totals, fleet.plan, times, kill)


async def _load(options: DemoOptions, fleet: Fleet, ledger: Ledger, view: DemoView) -> KillTimes | None:
    """Send the demo's requests while the view is shown and the drills run. Returns when all of them are over."""
    place = parse_url(fleet.plan.client_url)
    client = ReplayClient(make_dial(place, await find_addresses(place), tls=None), connections_max=_CONNECTIONS_MAX)
    writer = RequestWriter(PromptWriter(), authority=place.authority, base_path=place.path, model=MODEL, chat=True)
    driver = ReplayDriver(client, writer, ledger, timeout_s=_TIMEOUT_S)
    killed: list[KillTimes] = []

    async def drill() -> None:
        try:
            if options.slow:
                await trio.sleep(_SLOW_AFTER_S)
                await slow_down(fleet, view.tell)
            if options.kill:
                await trio.sleep(_KILL_AFTER_S)
                killed.append(await kill_and_restart(fleet, view.tell))
        except CommandFailed as failure:
            view.tell(f"drill given up: {failure.message}")

    async with trio.open_nursery() as beside:
        beside.start_soon(view.watch, fleet.plan, ledger)
        if options.endless:
            beside.start_soon(_tidy, ledger)
        async with trio.open_nursery() as work:
            work.start_soon(drill)
            if options.idle:
                await trio.sleep(options.load.span_s_max or math.inf)
            else:
                await driver.drive(demo_arrivals(options.load))
        beside.cancel_scope.cancel()
    await client.aclose()
    return killed[0] if killed else None


async def _tidy(ledger: Ledger) -> None:
    while True:
        await trio.sleep(_TIDY_EVERY_S)
        ledger.forget(keep=_KEPT_MAX)


async def _totals(fleet: Fleet) -> SummaryPage:
    edge = AdminConnection(fleet.plan.edge.admin_url)
    try:
        return await edge.read("/v1/summary", SummaryPage)
    finally:
        await edge.aclose()
