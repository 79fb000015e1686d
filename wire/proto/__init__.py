"""Protobuf messages of the mesh (generated, under `infermesh`) and the framing of streams of them (`delimited`).

The .proto files beside the generated code are the contract; `scripts/proto` regenerates after a change.
"""
