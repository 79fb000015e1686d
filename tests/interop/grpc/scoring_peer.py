"""grpcio as a caller of the mesh's own services, with stubs that protoc's own plugin made. A program of its own.

    python scoring_peer.py ROUTER GPU IDENTITY MODEL      HOST:PORT/NODE twice; prints what it found as JSON

Nothing of infermesh is imported: `scoring_pb2`, `state_pb2` and their stubs come from the folder in PYTHONPATH.
"""

from __future__ import annotations

import importlib
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc


def channel_to(place: str, folder: Path) -> grpc.Channel:
    """Nodes have no DNS names in their certificates; grpcio falls back to the common name, which is the node's id."""
    address, _, node = place.partition("/")
    credentials = grpc.ssl_channel_credentials(
        (folder / "ca.pem").read_bytes(), (folder / "node.key").read_bytes(), (folder / "node.pem").read_bytes()
    )
    return grpc.secure_channel(address, credentials, options=[("grpc.ssl_target_name_override", node)])


def stubs_of(name: str) -> tuple[Any, Any]:
    """Messages and stubs of a service; made by the test, so that no checker knows them."""
    module = f"{name}_pb2"
    return importlib.import_module(module), importlib.import_module(f"{module}_grpc")


def score_and_admit(place: str, folder: Path, model: str) -> dict[str, Any]:
    pb, scoring_pb2_grpc = stubs_of("scoring")
    found: dict[str, Any] = {}
    with channel_to(place, folder) as channel:
        stub = scoring_pb2_grpc.ScoringServiceStub(channel)
        facts = pb.RequestFacts(model=model, prompt_bytes=4000)
        scores = stub.ScoreTargets(pb.ScoreTargetsRequest(facts=facts), timeout=10)
        found["nodes"] = [candidate.target.node for candidate in scores.candidates]
        found["ttft_ms"] = [candidate.prediction.ttft_ms for candidate in scores.candidates]
        try:
            stub.ScoreTargets(pb.ScoreTargetsRequest(facts=pb.RequestFacts(model="unheard-of")), timeout=10)
        except grpc.RpcError as error:
            found["unknown"] = (error.code().name, error.details())
        first = stub.Admit(pb.AdmitRequest(facts=facts), timeout=10)
        found["first"] = first.WhichOneof("decision")
        try:  # The only slot is taken: it waits in the line, for as long as it says.
            stub.Admit(pb.AdmitRequest(facts=facts), timeout=0.3)
        except grpc.RpcError as error:
            found["second"] = error.code().name
        outcome = pb.Outcome(
            node=found["nodes"][0],
            model=model,
            verdict=pb.VERDICT_OK,
            first_byte_s=0.1,
            total_s=0.5,
            ticket=first.admitted.ticket,
            final=True,
        )
        report = stub.ReportOutcome(pb.ReportOutcomeRequest(outcomes=[outcome]), timeout=10)
        found["report"] = (report.taken, report.unknown)
        third = stub.Admit(pb.AdmitRequest(facts=facts), timeout=10)
        found["third"] = third.WhichOneof("decision")
        outcome.ticket = third.admitted.ticket
        stub.ReportOutcome(pb.ReportOutcomeRequest(outcomes=[outcome]), timeout=10)
    return found


def subscribe(place: str, folder: Path) -> dict[str, Any]:
    pb, state_pb2_grpc = stubs_of("state")
    found: dict[str, Any] = {}
    with channel_to(place, folder) as channel:
        stub = state_pb2_grpc.StateServiceStub(channel)
        over = threading.Event()

        def requests(epoch: int, position: int) -> Iterator[Any]:
            yield pb.SubscribeRequest(start=pb.SubscribeStart(epoch=epoch, resume_after=position))
            yield pb.SubscribeRequest(ack_position=position)
            over.wait()

        stream = stub.Subscribe(requests(0, 0), timeout=10)
        first = next(stream)
        found["first"] = first.WhichOneof("delta")
        found["node"] = first.model_state.node
        beat = next(delta for delta in stream if delta.WhichOneof("delta") == "heartbeat")
        found["beat_covers_first"] = beat.position >= first.position > 0
        stream.cancel()
        stub.Ping(pb.PingRequest(), timeout=10)
        refused = stub.ReportModelState(iter([first.model_state]), timeout=10)
        try:
            next(refused)
        except grpc.RpcError as error:
            found["report"] = error.code().name
        over.set()
    return found


def main() -> None:
    router, gpu, folder, model = sys.argv[1:]
    found = {"scoring": score_and_admit(router, Path(folder), model), "state": subscribe(gpu, Path(folder))}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
