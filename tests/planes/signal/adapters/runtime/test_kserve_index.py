from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from infermesh.core.model.names import ModelName
from infermesh.core.model.state import Lifecycle
from infermesh.planes.signal.adapters.runtime.kserve_index import read_index
from infermesh.planes.signal.adapters.runtime.openai_models import MODELS_MAX
from infermesh.planes.signal.adapters.runtime.port import RuntimeAdapterError

# As captured, after one of the models was unloaded.
TRITON = (
    b'[{"name":"addsub","version":"1","state":"READY"},{"name":"addsub2","version":"1","state":"UNAVAILABLE",'
    b'"reason":"unloaded"},{"name":"never"},{"name":"tokgen","version":"1","state":"READY"}]'
)
MLSERVER = (
    b'[{"name":"m2","version":"v1","state":"UNAVAILABLE","reason":""},'
    b'{"name":"m1","version":"v1","state":"READY","reason":""}]'
)


def _found(*rows: Mapping[str, object]) -> dict[ModelName, Lifecycle]:
    found, left_out = read_index(json.dumps(rows).encode(), "index")
    assert left_out == 0
    return found


def test_models_that_were_never_loaded_or_are_unloaded_are_not_listed() -> None:
    assert read_index(TRITON, "index") == ({"addsub": Lifecycle.READY, "tokgen": Lifecycle.READY}, 0)
    assert read_index(MLSERVER, "index") == ({"m1": Lifecycle.READY}, 0)
    assert read_index(b"[]", "index") == ({}, 0)


@pytest.mark.parametrize(
    ("state", "reason", "lifecycle"),
    [
        ("READY", None, Lifecycle.READY),
        ("State.READY", "", Lifecycle.READY),
        ("LOADING", "", Lifecycle.LOADING),
        ("UNLOADING", "", Lifecycle.UNKNOWN),
        ("UNKNOWN", "", Lifecycle.UNKNOWN),
        ("UNAVAILABLE", "failed to load: no such file", Lifecycle.FAILED),
    ],
)
def test_a_row_says_what_the_model_is(state: str, reason: str | None, lifecycle: Lifecycle) -> None:
    assert _found({"name": "m", "version": "1", "state": state, "reason": reason}) == {"m": lifecycle}


@pytest.mark.parametrize("state", ["UNAVAILABLE", "", "SOMETHING", None])
def test_a_row_of_no_use_is_left_out(state: str | None) -> None:
    assert _found({"name": "m", "state": state}) == {}


def test_of_several_versions_the_best_one_counts() -> None:
    states = ("UNAVAILABLE", "READY", "LOADING")
    rows = [{"name": "m", "version": str(n), "state": state, "reason": "broken"} for n, state in enumerate(states)]
    assert _found(*rows) == _found(*reversed(rows)) == {"m": Lifecycle.READY}


def test_names_that_cannot_be_labels_and_models_past_the_limit_are_counted() -> None:
    names = ["", "x" * 257, "a\nb", *(f"m{n}" for n in range(MODELS_MAX + 2))]
    body = json.dumps([{"name": name, "state": "READY"} for name in names]).encode()
    found, left_out = read_index(body, "index")
    assert (len(found), left_out) == (MODELS_MAX, 5)


DEEP = b'[{"x":' + b"[" * 5_000 + b"]" * 5_000 + b"}]"  # Found by fuzzing: RecursionError.


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b'[{"state":"READY"}]', b'[{"name":"\xff"}]', b"<html>", DEEP])
def test_an_answer_that_is_no_index_is_said(body: bytes) -> None:
    with pytest.raises(RuntimeAdapterError, match="index: not a repository index"):
        read_index(body, "index")
