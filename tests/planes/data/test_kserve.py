from __future__ import annotations

import pytest

from infermesh.planes.data.kserve import ModelCall, parse_model_path
from infermesh.planes.data.peek import MODEL_CHARS_MAX


def found(path: str) -> tuple[str, str, str, str] | None:
    call = parse_model_path(path.encode())
    return None if call is None else (call.model, call.action.decode(), call.method.decode(), call.route)


def test_a_path_names_its_model_its_action_and_its_method() -> None:
    assert found("/v2/models/resnet") == ("resnet", "", "GET", "/v2/models")
    assert found("/v2/models/resnet/") == ("resnet", "", "GET", "/v2/models")
    assert found("/v2/models/resnet/infer") == ("resnet", "infer", "POST", "/v2/models/infer")
    assert found("/v2/models/resnet/versions/3/infer") == ("resnet", "infer", "POST", "/v2/models/infer")
    assert found("/v2/models/resnet/versions/3") == ("resnet", "", "GET", "/v2/models")
    for action in ("ready", "config", "stats"):
        assert found(f"/v2/models/resnet/{action}") == ("resnet", action, "GET", f"/v2/models/{action}")
    for action in ("generate", "generate_stream"):
        assert found(f"/v2/models/resnet/{action}") == ("resnet", action, "POST", f"/v2/models/{action}")


def test_a_name_is_decoded_once() -> None:
    """What is routed by is what the runtime will read: it gets the path as it came, and decodes it once too."""
    assert found("/v2/models/owner%2Fmodel/infer") == ("owner/model", "infer", "POST", "/v2/models/infer")
    assert found("/v2/models/owner%252Fmodel/infer") == ("owner%2Fmodel", "infer", "POST", "/v2/models/infer")
    assert found("/v2/models/%FF/infer") == ("\ufffd", "infer", "POST", "/v2/models/infer")


@pytest.mark.parametrize(
    "path",
    [
        "/v2",
        "/v2/",
        "/v2/models",
        "/v2/models/",
        "/v2/models//infer",
        "/v2/models/resnet/trace/setting",
        "/v2/models/resnet/infer/more",
        "/v2/models/resnet/versions/3/infer/more",
        "/v2/models/resnet/unknown",
        "/v2/repository/models/resnet/load",
        "/v2x/models/resnet",
        "/v2/models/" + "x" * (MODEL_CHARS_MAX + 1),
    ],
)
def test_anything_else_is_no_call_of_a_model(path: str) -> None:
    assert parse_model_path(path.encode()) is None


def test_which_calls_stream_and_which_have_a_prompt() -> None:
    def of(action: bytes) -> ModelCall:
        call = parse_model_path(b"/v2/models/m/" + action)
        assert call is not None
        return call

    assert [of(action).streams for action in (b"infer", b"generate", b"generate_stream")] == [False, False, True]
    assert [of(action).has_prompt for action in (b"infer", b"generate", b"generate_stream")] == [False, True, True]
