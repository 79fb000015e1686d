"""Our plugin of protoc: what it writes is Python as the formatter would have it, for every kind of method."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLUGIN = ROOT / "scripts" / "protoc-gen-infermesh"
BIN = ROOT / ".venv" / "bin"  # The suite may run from another environment, which has no linter.

PROTO = """\
syntax = "proto3";
package demo.v1;
import "google/protobuf/empty.proto";
message Outer { message Inner {} }
message AMessageWhoseNameBreaksTheLineOfItsStub {}
// First.
service DemoService {
  // Says "so", with a backslash \\\\ and three quotes \"\"\".
  rpc GetHTTPState(Outer.Inner) returns (google.protobuf.Empty);
  // A comment that is long enough to be wrapped onto a second line, since a docstring must fit.
  rpc Watch(Outer) returns (stream Outer.Inner);
  rpc Collect(stream Outer) returns (Outer);
  rpc Chat(stream AMessageWhoseNameBreaksTheLineOfItsStub)
      returns (stream AMessageWhoseNameBreaksTheLineOfItsStub);
}
service Lonely { rpc Only(Outer) returns (Outer); }
"""


def generated(folder: Path, source: str, options: str = "") -> Path:
    """Where the plugin would put the services of a file."""
    (folder / "demo.proto").write_text(source, "utf-8")
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}"),
        f"--plugin=protoc-gen-infermesh={PLUGIN}",
        f"--infermesh_out={options}:{folder}" if options else f"--infermesh_out={folder}",
        "demo.proto",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "demo_grpc.py"


def signature(tree: ast.Module, class_name: str, method: str) -> str:
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name)
    (function,) = (
        node for node in found.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == method
    )
    kind = "async def" if isinstance(function, ast.AsyncFunctionDef) else "def"
    assert function.returns is not None
    return f"{kind} {method}({ast.unparse(function.args)}) -> {ast.unparse(function.returns)}"


def test_what_is_written_needs_no_formatter_and_no_linter(tmp_path: Path) -> None:
    file = generated(tmp_path, PROTO, "package=wire.proto")
    for command in (["check", "--quiet"], ["format", "--check", "--quiet"]):
        options = ["--config", str(ROOT / "pyproject.toml")]
        done = subprocess.run([BIN / "ruff", *command, *options, file], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_each_kind_of_method_has_its_signature_on_both_sides(tmp_path: Path) -> None:
    tree = ast.parse(generated(tmp_path, PROTO).read_text("utf-8"))
    base = [signature(tree, "DemoServiceBase", name) for name in ("get_http_state", "watch", "collect")]
    assert base == [
        (
            "def get_http_state(self, request: demo_pb2.Outer.Inner, context: ServerContext)"
            " -> Awaitable[empty_pb2.Empty] | empty_pb2.Empty"
        ),
        (
            "async def watch(self, request: demo_pb2.Outer, responses: Sender[demo_pb2.Outer.Inner],"
            " context: ServerContext) -> None"
        ),
        "async def collect(self, requests: Receiver[demo_pb2.Outer], context: ServerContext) -> demo_pb2.Outer",
    ]
    stub = [signature(tree, "DemoServiceStub", name) for name in ("get_http_state", "watch", "collect")]
    assert stub == [
        (
            "async def get_http_state(self, request: demo_pb2.Outer.Inner, options: CallOptions=NO_OPTIONS)"
            " -> empty_pb2.Empty"
        ),
        (
            "def watch(self, request: demo_pb2.Outer, options: CallOptions=NO_OPTIONS)"
            " -> AbstractAsyncContextManager[ClientCall[demo_pb2.Outer, demo_pb2.Outer.Inner]]"
        ),
        (
            "def collect(self, options: CallOptions=NO_OPTIONS)"
            " -> AbstractAsyncContextManager[ClientCall[demo_pb2.Outer, demo_pb2.Outer]]"
        ),
    ]


def test_messages_are_imported_from_where_the_files_land(tmp_path: Path) -> None:
    text = generated(tmp_path, PROTO, "package=wire.proto").read_text("utf-8")
    assert "from wire.proto import demo_pb2\n" in text
    assert "from google.protobuf import empty_pb2\n" in text


def test_a_file_without_services_gets_nothing(tmp_path: Path) -> None:
    assert not generated(tmp_path, 'syntax = "proto3";\nmessage Only {}\n').exists()


@pytest.mark.slow
def test_what_is_committed_is_what_the_protos_give() -> None:
    done = subprocess.run([ROOT / "scripts" / "proto", "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
