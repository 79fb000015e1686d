"""A line on the terminal while a replay runs. On stderr, so that stdout holds the report alone."""

from __future__ import annotations

import trio
from rich.live import Live
from rich.text import Text

from infermesh.cli.output import console, in_ms
from infermesh.cli.replay.driver import ReplayDriver
from infermesh.cli.replay.ledger import Status
from infermesh.cli.replay.report import spread_of

_EVERY_S = 0.5
_LATEST = 200  # First tokens that the running figure is of.


async def show_progress(driver: ReplayDriver, planned: int) -> None:
    """Until cancelled."""
    ledger = driver.ledger
    with Live(console=console(stderr=True), auto_refresh=False, transient=True) as live:
        while True:
            settled = ledger.settled
            ttft = spread_of([ttft_s * 1e3 for ttft_s in ledger.first_tokens_s[-_LATEST:]])
            live.update(
                Text(
                    f"{max(0.0, driver.now_s):6.1f} s  sent {ledger.arrived:,} of {planned:,}  "
                    f"in flight {ledger.in_flight:,}  completed {settled[Status.COMPLETED]:,}  "
                    f"rejected {settled[Status.REJECTED]:,}  failed {settled[Status.FAILED]:,}  "
                    f"TTFT ms of the last {_LATEST}: p50 {in_ms(ttft.p50)} p99 {in_ms(ttft.p99)}"
                ),
                refresh=True,
            )
            await trio.sleep(_EVERY_S)
