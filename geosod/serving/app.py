"""The application: its operations, and the envelope of every error."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from geosod.errors import GeosodError, one_line, printable
from geosod.serving.answers import error_answer
from geosod.serving.guard import Guard
from geosod.serving.image_routes import image_routes
from geosod.serving.job_routes import job_routes
from geosod.serving.job_store import JobStore
from geosod.serving.jobs import Jobs
from geosod.serving.options import ServeOptions
from geosod.serving.refused import refusal_of
from geosod.serving.requests import invalid
from geosod.serving.service import Service
from geosod.serving.state_routes import state_routes
from geosod.version import __version__

log = logging.getLogger("geosod.serving")


def make_app(options: ServeOptions, *, on_start: Callable[[Service], None] = lambda _: None) -> Guard:
    """The service as an ASGI application, its model loaded.

    Args:
        options: how it runs.
        on_start: called with the service when the model is loaded.

    Raises:
        UsageError: the model, a setting or the folder of jobs is unusable.
    """
    store = None if options.jobs is None else JobStore(options.jobs)
    service = Service(options)
    jobs = None if store is None else Jobs(store, options)
    on_start(service)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        if jobs is not None:
            await asyncio.to_thread(jobs.stop)
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="geosod",
        summary="Small-object detection in images and scenes.",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    for router in (image_routes(service), state_routes(service), job_routes(service, jobs)):
        app.include_router(router)
    app.add_exception_handler(Exception, _failed)
    for kind in (GeosodError, MemoryError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _refused)
    if options.token is not None:
        _document_token(app)
    return Guard(app, options, service.metrics)


async def _refused(request: Request, error: Exception) -> Response:
    headers: dict[str, str] = dict(getattr(error, "headers", None) or {})
    if isinstance(error, HTTPException):
        status = error.status_code
        allowed = f"; use {headers['allow']}" if headers.get("allow") else ""
        text = f"{request.method} {ascii(request.url.path)[:120]}: {error.detail}{allowed}; see /openapi.json"
    elif isinstance(error, RequestValidationError):
        status, text = 422, invalid(error.errors())
    else:
        refusal = refusal_of(error)
        assert refusal is not None, "handlers are registered for what is refused"
        status, text = refusal.status, printable(one_line(refusal))
    return error_answer(request.scope["state"]["log_id"], status, text, headers)


async def _failed(request: Request, error: Exception) -> Response:
    log_id = request.scope["state"]["log_id"]
    log.error("%s: %s %s failed", log_id, request.method, ascii(request.url.path)[:200], exc_info=error)
    return error_answer(log_id, 500, "a bug of the service; its log has the error under this logId")


def _document_token(app: FastAPI) -> None:
    """Say in the OpenAPI document that a bearer token is needed."""
    make: Callable[[], dict[str, Any]] = app.openapi

    def with_token() -> dict[str, Any]:
        document = make()
        schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes["token"] = {"type": "http", "scheme": "bearer"}
        document["security"] = [{"token": []}]
        return document

    app.openapi = with_token  # type: ignore[method-assign]
