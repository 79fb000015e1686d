"""The load of a KServe server's models, from its metrics page: fetched, read, and set against the pages before.

Not here: which models there are, and whether they are ready. The owner calls `read`, which raises
RuntimeAdapterError when there is no page that can be read, then `take`, once; and `aclose` at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
import trio

from infermesh.core.model.names import ModelName
from infermesh.net.exchange import parse_url
from infermesh.net.fetch import FetchError, HttpClient
from infermesh.planes.signal.adapters.runtime.counter_window import CounterWindow, Recent, Totals
from infermesh.planes.signal.adapters.runtime.kserve_page import KServePage, KServePageReader
from infermesh.planes.signal.adapters.runtime.port import RuntimeAdapterError
from infermesh.planes.signal.adapters.runtime.prometheus_text import MetricsTextError

METRICS_BYTES_MAX: Final = 4 * 2**20


class ModelLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one model now. `ttft_ms` of `whole` is the time to the end of the answer."""

    queue_len: int = 0
    running: int = 0
    whole: Recent = Recent()
    first: Recent | None = None


class KServeLoad:
    """The page at `url`, and what it said over the last `window_s`."""

    def __init__(self, url: str, window_s: float) -> None:
        place = parse_url(url)
        self._url = url
        self._path = place.path if place.path != "/" else "/metrics"
        self._client = HttpClient(place.base_url)
        self._reader = KServePageReader()
        self._window_s = window_s
        self._windows: dict[tuple[str, str], CounterWindow] = {}
        self._page = KServePage(models={}, started_unix_s=0.0, tells_queue=False)
        self.ran_backwards = False  # By the newest page: the server is another one.

    @property
    def started_unix_s(self) -> float:
        return self._page.started_unix_s

    @property
    def tells_queue(self) -> bool:
        return self._page.tells_queue

    async def read(self, deadline: float) -> None:
        remaining_s = max(0.0, deadline - trio.current_time())
        try:
            response = await self._client.request(self._path, deadline_s=remaining_s, body_bytes_max=METRICS_BYTES_MAX)
            if response.status != 200:
                raise RuntimeAdapterError(f"GET {self._url}: answered {response.status}, 200 was expected")
            self._page = self._reader.read(response.body)
        except FetchError as error:
            raise RuntimeAdapterError(str(error)) from error
        except MetricsTextError as error:
            raise RuntimeAdapterError(f"GET {self._url}: {error}") from error
        self.ran_backwards = any(
            self._windows[key].ran_backwards(totals) for key, totals in self._totals().items() if key in self._windows
        )

    def take(self, now: float) -> Mapping[ModelName, ModelLoad]:
        """The newest page by model; `now` must not go backwards."""
        totals = self._totals()
        if self.ran_backwards:
            self._windows.clear()
        self._windows = {key: window for key, window in self._windows.items() if key in totals}
        recents = {
            key: self._windows.setdefault(key, CounterWindow(self._window_s)).add(each, now)
            for key, each in totals.items()
        }
        return {
            ModelName(name): ModelLoad(
                queue_len=reading.queue_len,
                running=reading.running,
                whole=recents[name, "whole"],
                first=recents.get((name, "first")),
            )
            for name, reading in self._page.models.items()
        }

    def restart(self) -> None:
        """The server is another one: what its pages said before is not to be compared with."""
        self._windows.clear()

    async def aclose(self) -> None:
        await self._client.aclose()

    def _totals(self) -> dict[tuple[str, str], Totals]:
        totals = {(name, "whole"): reading.whole for name, reading in self._page.models.items()}
        firsts = {(name, "first"): reading.first for name, reading in self._page.models.items() if reading.first}
        return totals | firsts
