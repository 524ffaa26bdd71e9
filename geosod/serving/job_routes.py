"""`/jobs`: scenes by path or URL, in the background."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import FileResponse

from geosod.serving.answers import JobAnswer, JobRequest, JobsAnswer, documented_answers, json_answer, json_body
from geosod.serving.job_store import JobRecord
from geosod.serving.jobs import Jobs
from geosod.serving.refused import RefusedError
from geosod.serving.requests import parsed, read_body
from geosod.serving.service import Service

_EXAMPLE = {"scenes": ["/data/scenes/june.tif"], "settings": {"threshold": 0.5}}
_JobId = Annotated[str, Path(description="`jobId` of a job.")]


def job_routes(service: Service, jobs: Jobs | None) -> APIRouter:
    """The operations on jobs; without a folder for them each is refused."""
    router = APIRouter()

    def kept() -> Jobs:
        if jobs is None:
            raise RefusedError(403, "there are no jobs here; start the service with --jobs FOLDER")
        return jobs

    @router.post(
        "/jobs",
        operation_id="submitJob",
        summary="Detect objects in whole scenes, in the background.",
        status_code=202,
        responses=documented_answers({"model": JobAnswer}, 408, 413, 415, 422, 429, status=202),
        openapi_extra=json_body(JobRequest, _EXAMPLE),
    )
    async def submit(request: Request) -> Response:
        found = kept()
        with service.budget.request() as share:
            body = await read_body(request, service.options.limits, share)
            record = await asyncio.to_thread(lambda: found.submit(parsed(body, JobRequest)))
        return json_answer(job_answer(found, record), 202, {"Location": f"/jobs/{record.id}"})

    @router.get(
        "/jobs",
        operation_id="listJobs",
        summary="All jobs, newest first.",
        responses=documented_answers({"model": JobsAnswer}),
    )
    async def list_jobs() -> Response:
        found = kept()
        return json_answer({"jobs": [job_answer(found, record, files=False) for record in found.all]})

    @router.get(
        "/jobs/{job_id}",
        operation_id="getJob",
        summary="A job, how far it is, and links to its results.",
        responses=documented_answers({"model": JobAnswer}, 404),
    )
    async def job(job_id: _JobId) -> Response:
        found = kept()
        return json_answer(await asyncio.to_thread(lambda: job_answer(found, found.find(job_id))))

    @router.delete(
        "/jobs/{job_id}",
        operation_id="removeJob",
        summary="Cancel a job, or delete one that has ended, with its results.",
        responses=documented_answers({"model": JobAnswer}, 404),
    )
    async def remove(job_id: _JobId) -> Response:
        found = kept()
        record = await asyncio.to_thread(found.remove, job_id)
        return json_answer(job_answer(found, record, files=False))

    @router.get(
        "/jobs/{job_id}/files/{name:path}",
        operation_id="getJobFile",
        summary="A result file of a job; its links name them.",
        response_class=FileResponse,
        responses=documented_answers(
            {
                "description": "The file.",
                "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
            },
            404,
        ),
    )
    async def job_file(job_id: _JobId, name: str) -> Response:
        found = kept()
        files = await asyncio.to_thread(lambda: found.results(found.find(job_id)))
        # A name is looked up among those that there are, and never made a path.
        if name not in files:
            raise RefusedError(404, f"the job has no file {ascii(name)[:80]}; its links name those that it has")
        return FileResponse(files[name], media_type="application/octet-stream")

    return router


def job_answer(jobs: Jobs, record: JobRecord, *, files: bool = True) -> dict[str, Any]:
    """A job as answers have it.

    Args:
        jobs: all of them.
        record: the job.
        files: whether result files are listed.
    """
    links = {"self": f"/jobs/{record.id}"}
    if files:
        links |= {name: f"/jobs/{record.id}/files/{quote(name)}" for name in jobs.results(record)}
    return {
        "jobId": record.id,
        "status": record.status,
        "created": record.created,
        "scenes": len(record.scenes),
        "scenesDone": record.scenes_done,
        "progress": jobs.progress(record),
        "detections": record.detections,
        "failures": [{"scene": a, "stage": b, "message": c} for a, b, c in record.failures],
        "message": record.message,
        "links": links,
    }
