"""Services of infermesh/scoring/v1/scoring.proto: bases for servers, stubs for clients.

Made by scripts/proto; do not edit.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final

from wire.grpc.service import (
    NO_OPTIONS,
    AnyRoute,
    Caller,
    CallOptions,
    Method,
    ServerContext,
    UnaryUnary,
    unimplemented,
)
from wire.proto.infermesh.scoring.v1 import scoring_pb2

SCORING_SERVICE_SCORE_TARGETS: Final = Method(
    "/infermesh.scoring.v1.ScoringService/ScoreTargets",
    scoring_pb2.ScoreTargetsRequest,
    scoring_pb2.ScoreTargetsResponse,
)
SCORING_SERVICE_ADMIT: Final = Method(
    "/infermesh.scoring.v1.ScoringService/Admit",
    scoring_pb2.AdmitRequest,
    scoring_pb2.AdmitResponse,
)
SCORING_SERVICE_REPORT_OUTCOME: Final = Method(
    "/infermesh.scoring.v1.ScoringService/ReportOutcome",
    scoring_pb2.ReportOutcomeRequest,
    scoring_pb2.ReportOutcomeResponse,
)


class ScoringServiceBase:
    """What a server of infermesh.scoring.v1.ScoringService overrides; the rest answers UNIMPLEMENTED."""

    name: Final = "infermesh.scoring.v1.ScoringService"
    file: Final = scoring_pb2.DESCRIPTOR

    def routes(self) -> tuple[AnyRoute, ...]:
        return (
            UnaryUnary(SCORING_SERVICE_SCORE_TARGETS, self.score_targets),
            UnaryUnary(SCORING_SERVICE_ADMIT, self.admit),
            UnaryUnary(SCORING_SERVICE_REPORT_OUTCOME, self.report_outcome),
        )

    def score_targets(
        self,
        request: scoring_pb2.ScoreTargetsRequest,
        context: ServerContext,
    ) -> Awaitable[scoring_pb2.ScoreTargetsResponse] | scoring_pb2.ScoreTargetsResponse:
        """Every target of a model, best first, each with its prediction and what it is made of. Changes nothing."""
        raise unimplemented(SCORING_SERVICE_SCORE_TARGETS)

    def admit(
        self,
        request: scoring_pb2.AdmitRequest,
        context: ServerContext,
    ) -> Awaitable[scoring_pb2.AdmitResponse] | scoring_pb2.AdmitResponse:
        """Waits in the answering node's line until let in or refused, at most until the call's deadline."""
        raise unimplemented(SCORING_SERVICE_ADMIT)

    def report_outcome(
        self,
        request: scoring_pb2.ReportOutcomeRequest,
        context: ServerContext,
    ) -> Awaitable[scoring_pb2.ReportOutcomeResponse] | scoring_pb2.ReportOutcomeResponse:
        """Tells how attempts ended, so that scores, ejection and admission learn from them."""
        raise unimplemented(SCORING_SERVICE_REPORT_OUTCOME)


class ScoringServiceStub:
    """Calls infermesh.scoring.v1.ScoringService through a channel."""

    def __init__(self, channel: Caller) -> None:
        self._channel = channel

    async def score_targets(
        self,
        request: scoring_pb2.ScoreTargetsRequest,
        options: CallOptions = NO_OPTIONS,
    ) -> scoring_pb2.ScoreTargetsResponse:
        """Every target of a model, best first, each with its prediction and what it is made of. Changes nothing."""
        return await self._channel.unary(SCORING_SERVICE_SCORE_TARGETS, request, options)

    async def admit(
        self,
        request: scoring_pb2.AdmitRequest,
        options: CallOptions = NO_OPTIONS,
    ) -> scoring_pb2.AdmitResponse:
        """Waits in the answering node's line until let in or refused, at most until the call's deadline."""
        return await self._channel.unary(SCORING_SERVICE_ADMIT, request, options)

    async def report_outcome(
        self,
        request: scoring_pb2.ReportOutcomeRequest,
        options: CallOptions = NO_OPTIONS,
    ) -> scoring_pb2.ReportOutcomeResponse:
        """Tells how attempts ended, so that scores, ejection and admission learn from them."""
        return await self._channel.unary(SCORING_SERVICE_REPORT_OUTCOME, request, options)
