"""What the service says of itself: models, health, readiness, metrics."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse

from geosod.serving.answers import HealthAnswer, ModelsAnswer, documented_answers, json_answer
from geosod.serving.refused import RefusedError
from geosod.serving.service import Service

_OK = {"status": "ok"}
_METRICS = "text/plain; version=0.0.4; charset=utf-8"


def state_routes(service: Service) -> APIRouter:
    """The operations that change nothing."""
    router = APIRouter()

    @router.get(
        "/models",
        operation_id="listModels",
        summary="The models of the service.",
        responses=documented_answers({"model": ModelsAnswer}),
    )
    async def models() -> Response:
        return json_answer({"models": [service.worker.about]})

    @router.get(
        "/healthz",
        operation_id="health",
        summary="Whether the process answers.",
        responses=documented_answers({"model": HealthAnswer}),
    )
    async def health() -> Response:
        return json_answer(_OK)

    @router.get(
        "/readyz",
        operation_id="ready",
        summary="Whether images can be sent.",
        responses=documented_answers({"model": HealthAnswer}),
    )
    async def ready() -> Response:
        if not await service.worker.ready():
            raise RefusedError(503, "the detector has ended; restart the service")
        return json_answer(_OK)

    @router.get(
        "/metrics",
        operation_id="metrics",
        summary="Counters, in Prometheus' text format.",
        response_class=PlainTextResponse,
        responses=documented_answers({"description": "The counters."}),
    )
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=_METRICS)

    return router
