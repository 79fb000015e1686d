"""grpcio's own health and reflection packages, on either side. A program of its own: their messages bear the names of
ours, and one process can hold a name once.

    python -m tests.interop.grpc.standard_services ask HOST:PORT     prints what it found as JSON
    python -m tests.interop.grpc.standard_services serve             prints its port and serves until its input ends
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


def ask(target: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with grpc.insecure_channel(target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        found["check"] = stub.Check(health_pb2.HealthCheckRequest()).status
        try:
            stub.Check(health_pb2.HealthCheckRequest(service="nope"))
        except grpc.RpcError as error:
            found["check_unknown"] = error.code().name
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="nope"))
        found["watch_unknown"] = next(iter(watch)).status
        watch.cancel()
        listed = stub.List(health_pb2.HealthListRequest())
        found["list"] = {name: each.status for name, each in listed.statuses.items()}
        database = ProtoReflectionDescriptorDatabase(channel)
        found["services"] = list(database.get_services())
        pool = DescriptorPool(database)
        service = pool.FindServiceByName("infermesh.state.v1.StateService")
        found["methods"] = [method.name for method in service.methods]
        found["fields"] = [field.name for field in pool.FindMessageTypeByName("infermesh.state.v1.StateDelta").fields]
    return found


def serve() -> None:
    server = grpc.server(ThreadPoolExecutor(4))
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    names = (health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    servicer.set("a.B", health_pb2.HealthCheckResponse.SERVING)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    for line in sys.stdin:
        status = health_pb2.HealthCheckResponse.ServingStatus.Value(line.strip())
        servicer.set("a.B", status)
    server.stop(0).wait()


if __name__ == "__main__":
    if sys.argv[1] == "ask":
        print(json.dumps(ask(sys.argv[2])))
    else:
        serve()
