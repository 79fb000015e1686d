"""The fuzz targets: each corpus replays clean, a few hundred mutations too, and each target says what it demands.

The engines' own tests are in test_fuzz_engines.py. Long runs are `scripts/fuzz` (docs/fuzzing.md).
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))  # Behind all else: the suite may run against the wheel, and fuzz/ is in no wheel.

from fuzz.corpus import CORPORA, FILES_MAX, digest, read_corpus  # noqa: E402 - see above.
from fuzz.plain import run_plain  # noqa: E402
from fuzz.target import invariant_of, judge, judge_measured, load_target, target_names  # noqa: E402

NAMES = target_names()
EXECUTIONS = 200
# Files that read what a peer sent, and the target that reads them. One without a target has to be named here.
DECODERS = {
    "wire/grpc/call.py": "grpc_heads",
    "wire/grpc/details.py": "grpc_heads",
    "wire/grpc/framing.py": "grpc_messages",
    "wire/grpc/message.py": "grpc_heads",
    "wire/grpc/metadata.py": "grpc_heads",
    "wire/grpc/timeout.py": "grpc_heads",
    "wire/http1/framing.py": "http1_chunked",
    "wire/http1/head.py": "http1_request",
    "wire/http2/connection.py": "http2_server",
    "wire/http2/hpack.py": "hpack",
    "wire/http2/huffman.py": "hpack",
    "wire/sse/__init__.py": "sse",
    "wire/tracecontext/__init__.py": "tracecontext",
    "wire/websocket/extensions.py": "websocket_opening",
    "wire/websocket/handshake.py": "websocket_opening",
    "wire/websocket/machine.py": "websocket_frames",
    "infermesh/core/trust/identity.py": "certificate",
    "infermesh/planes/data/grpc_models.py": "grpc_model",
    "infermesh/planes/data/h2c.py": "http1_request",
    "infermesh/planes/data/heads.py": "load_hint",
    "infermesh/planes/data/kserve.py": "http1_request",
    "infermesh/planes/data/peek.py": "request_body",
    "infermesh/planes/data/websocket_messages.py": "websocket_request",
    "infermesh/planes/signal/adapters/runtime/kserve_index.py": "runtime_pages",
    "infermesh/planes/signal/adapters/runtime/kserve_page.py": "runtime_pages",
    "infermesh/planes/signal/adapters/runtime/openai_models.py": "runtime_pages",
    "infermesh/planes/signal/adapters/runtime/vllm_page.py": "runtime_pages",
    "infermesh/planes/signal/codec.py": "state_stream",
}


@pytest.mark.parametrize("name", NAMES)
def test_the_first_line_of_a_target_is_its_invariant(name: str) -> None:
    first = (ROOT / "fuzz" / "targets" / f"{name}.py").read_text("utf-8").partition("\n")[0]
    assert first.startswith('"""Invariant: ')
    assert invariant_of(name).endswith(".")


def test_every_decoder_of_what_a_peer_sends_has_a_target() -> None:
    assert [file for file in DECODERS if not (ROOT / file).is_file()] == []
    assert {name for name in DECODERS.values() if name not in NAMES} == set()
    packages = {file.parent.name for file in (ROOT / "wire").glob("*/__init__.py")}
    generated = {"proto"}  # Protobuf's own decoder reads it; what it says is checked by whoever takes the message.
    assert packages - generated - {file.split("/")[1] for file in DECODERS} == set()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_corpus_replays_clean(name: str) -> None:
    target = load_target(name)
    corpus = read_corpus(name)
    assert corpus, "no corpus; scripts/fuzz TARGET 1 --keep makes one"
    for data in [*target.seeds(), *corpus]:
        judge(target, data)
    judge_measured(target, corpus[-1])


@pytest.mark.parametrize("name", NAMES)
def test_a_corpus_is_small_and_named_by_content(name: str) -> None:
    files = sorted((CORPORA / name).iterdir())
    assert len(files) <= FILES_MAX
    assert [file.name for file in files if file.name != f"{digest(file.read_bytes())}.bin"] == []
    largest = load_target(name).input_bytes_max
    assert [file.name for file in files if file.stat().st_size > largest] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_few_hundred_mutations_find_nothing(name: str) -> None:
    target = load_target(name)
    inputs = [*target.seeds(), *read_corpus(name)]
    count = len(inputs) + EXECUTIONS
    last = list(run_plain(target, inputs, seed=1, seconds=60.0, executions_max=count))[-1]
    assert last.finding is None, last.finding
    assert last.coverage > 0
