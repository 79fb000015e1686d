from __future__ import annotations

import json
from pathlib import Path

import pytest

from infermesh.core.model.names import ModelName
from infermesh.planes.signal.adapters.runtime.openai_models import MODELS_MAX, read_model_list
from infermesh.planes.signal.adapters.runtime.port import ListedModel, RuntimeAdapterError

CAPTURES = Path(__file__).parents[4] / "fixtures" / "vllm"


def _body(*cards: object) -> bytes:
    return json.dumps({"object": "list", "data": cards}).encode()


def test_the_list_of_a_real_server_is_read() -> None:
    assert read_model_list((CAPTURES / "models.json").read_bytes(), "GET x") == (
        (ListedModel(name=ModelName("tiny"), context_tokens_max=1024),),
        0,
    )


def test_a_lora_adapter_has_a_parent_and_its_context() -> None:
    models, left_out = read_model_list((CAPTURES / "models_lora.json").read_bytes(), "GET x")
    adapter = ListedModel(name=ModelName("ad1"), parent=ModelName("tiny"), context_tokens_max=1024)
    assert (models[1], left_out) == (adapter, 0)


def test_the_emulated_engine_is_known_by_its_owner() -> None:
    models, _ = read_model_list(_body({"id": "m", "owned_by": "infermesh-emulator"}), "GET x")
    assert models == (ListedModel(name=ModelName("m"), emulated=True),)


def test_names_that_cannot_be_labels_are_left_out_and_the_rest_is_kept() -> None:
    models, left_out = read_model_list(
        _body({"id": ""}, {"id": "a\nb"}, {"id": "x" * 257}, {"id": "x" * 256}, {"id": "ok"}), "GET x"
    )
    assert ([len(model.name) for model in models], left_out) == ([256, 2], 3)


def test_names_past_the_limit_are_left_out() -> None:
    cards = [{"id": f"m{number}"} for number in range(MODELS_MAX + 1)]
    models, left_out = read_model_list(_body(*cards), "GET x")
    assert (len(models), left_out) == (MODELS_MAX, 1)


def test_impossible_context_lengths_are_cut_to_what_can_be_said() -> None:
    models, _ = read_model_list(_body({"id": "a", "max_model_len": -5}, {"id": "b", "max_model_len": 2**40}), "GET x")
    assert [model.context_tokens_max for model in models] == [0, 2**31 - 1]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b'{"data": 1}',
        b'{"data": [{"id": 5}]}',
        b'{"data": [{}]}',
        b'{"data": ["\xff"]}',
        b'{"data": [{"x": ' + b"[" * 5_000 + b"]" * 5_000 + b"}]}",  # Found by fuzzing: RecursionError.
    ],
)
def test_anything_else_is_an_error_that_names_the_request(body: bytes) -> None:
    with pytest.raises(RuntimeAdapterError, match=r"^GET x: not a model list"):
        read_model_list(body, "GET x")
