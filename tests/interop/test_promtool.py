"""`promtool check metrics` is clean on every /metrics of the daemons, before the first request and after load.

The page of the emulated engine repeats vLLM's own names, about which promtool complains; so it does about the page of
a real vLLM. There the complaints must be among those that the real page gets for the same name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import openai
import pytest

from tests.interop.conftest import Lints, SharedFleet
from tests.interop.exchange import ask
from tests.interop.fleet import MODEL

pytestmark = [pytest.mark.interop, pytest.mark.slow]

NODES: Final = ["edge", "gpu-a", "gpu-b"]
CAPTURES: Final = Path(__file__).parents[1] / "fixtures" / "vllm"


@pytest.mark.parametrize("node", NODES)
def test_the_page_of_an_idle_node_is_clean(node: str, lints: Lints, shared: SharedFleet) -> None:
    page = shared.idle_pages[node]
    assert "infermesh_" in page
    assert lints(page) == []


@pytest.fixture
def after_load(shared: SharedFleet) -> SharedFleet:
    """Everything that is counted of requests has been: answers, streams, refusals, errors."""
    url = f"{shared.fleet.url}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=20) as client:
        for number in range(4):
            client.completions.create(model=MODEL, prompt=f"load {number}", max_tokens=3)
            list(client.completions.create(model=MODEL, prompt=f"load {number}", max_tokens=3, stream=True))
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="nope", prompt="x")
        with pytest.raises(openai.RateLimitError):
            deadline = {"x-infermesh-deadline-ms": "0.01"}
            client.completions.create(model=MODEL, prompt="x", extra_headers=deadline)
        stream = client.completions.create(model=MODEL, prompt="left", max_tokens=500, stream=True)
        next(iter(stream))
        stream.close()
    return shared


@pytest.mark.parametrize("node", NODES)
def test_the_page_of_a_node_after_load_is_clean(node: str, lints: Lints, after_load: SharedFleet) -> None:
    page = after_load.fleet[node].page("/metrics").text
    wanted = "infermesh_inferences_total{" if node == "edge" else "infermesh_upstream_attempts_total{"
    assert wanted in page
    assert lints(page) == []


def test_the_emulated_engine_gets_no_complaint_that_a_real_vllm_does_not_get(
    lints: Lints, after_load: SharedFleet
) -> None:
    real = {line for name in ("metrics_idle.txt", "metrics_load.txt") for line in lints((CAPTURES / name).read_text())}
    assert real, "the captures were expected to be complained about"
    page = ask(after_load.fleet["gpu-a"].engine_port, "/metrics").text
    emulated = lints(page)
    assert "vllm:num_requests_running" in page
    assert "infermesh_emulated" in page
    assert [line for line in emulated if line not in real] == []
