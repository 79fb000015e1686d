"""Protobuf messages of the mesh (generated, under `infermesh`) and of the standard services of gRPC (under `grpc`).

The .proto files beside the generated code are the contract; `scripts/proto` regenerates after a change.
"""
