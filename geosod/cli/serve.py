"""`geosod serve`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geosod.cli.streams import print_error

if TYPE_CHECKING:
    from geosod.serving.service import Service

_ACCESS, _LIMITS, _EXECUTION, _RAY = "Access", "Limits", "Execution", "Ray"


def _option(*flags: str, help: str, panel: str | None = None, metavar: str | None = None, **bounds: Any) -> Any:
    return typer.Option(*flags, help=help, rich_help_panel=panel, metavar=metavar, show_default=False, **bounds)


def serve_command(
    model: Annotated[str, _option("--model", "-m", help="A model's name, a bundle's folder, or module:function.")],
    host: Annotated[str, _option("--host", help="Address to listen on. Default: 127.0.0.1.")] = "127.0.0.1",
    port: Annotated[int, _option("--port", min=0, max=65535, help="Port, 0 for a free one. Default: 8080.")] = 8080,
    threshold: Annotated[float | None, _option("--threshold", help="Minimum score. Default: the model's.")] = None,
    jobs: Annotated[
        Path | None, _option("--jobs", help="Folder of jobs and their results. Default: there are no jobs.")
    ] = None,
    token_file: Annotated[
        Path | None,
        _option("--token-file", help="File with the bearer token that clients must send.", panel=_ACCESS),
    ] = None,
    anonymous: Annotated[
        bool, _option("--anonymous", help="Let other machines use it without a token.", panel=_ACCESS)
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        _option(
            "--allow-host",
            help="Host from which images and scenes may be fetched; =NETWORK where it is not public. Default: none.",
            panel=_ACCESS,
            metavar="HOST[:PORT][=NETWORK]",
        ),
    ] = None,
    scenes: Annotated[
        list[Path] | None,
        _option("--scenes", help="Folder whose scenes jobs may name. Default: none.", panel=_ACCESS),
    ] = None,
    max_body_mb: Annotated[
        int, _option("--max-body-mb", min=1, max=4096, help="MiB of a request's body. Default: 64.", panel=_LIMITS)
    ] = 64,
    max_mpx: Annotated[
        int, _option("--max-mpx", min=1, max=4096, help="Megapixels of an image. Default: 50.", panel=_LIMITS)
    ] = 50,
    max_requests: Annotated[
        int,
        _option("--max-requests", min=1, max=10_000, help="Requests in progress at once. Default: 128.", panel=_LIMITS),
    ] = 128,
    timeout: Annotated[
        float, _option("--timeout", min=1, max=3600, help="Seconds of a request. Default: 60.", panel=_LIMITS)
    ] = 60,
    device: Annotated[str | None, _option("--device", help="As for geosod detect.", panel=_EXECUTION)] = None,
    backend: Annotated[str | None, _option("--backend", help="As for geosod detect.", panel=_EXECUTION)] = None,
    precision: Annotated[str | None, _option("--precision", help="As for geosod detect.", panel=_EXECUTION)] = None,
    batch: Annotated[int | None, _option("--batch", min=1, help="Images of a batch at most.", panel=_EXECUTION)] = None,
    threads: Annotated[
        int | None,
        _option(
            "--threads",
            min=1,
            help="CPU threads of a model. Default: all cores; one for each of Ray's replicas.",
            panel=_EXECUTION,
        ),
    ] = None,
    engine: Annotated[
        str, _option("--engine", help="local for one model in this process, ray for replicas of it.", panel=_RAY)
    ] = "local",
    replicas: Annotated[
        int | None,
        _option("--replicas", min=1, help="Models. Default: as many as the GPUs, or cores, hold.", panel=_RAY),
    ] = None,
    ray_address: Annotated[
        str | None,
        _option("--ray-address", help="Head of the cluster. Default: RAY_ADDRESS, or this machine.", panel=_RAY),
    ] = None,
    trust: Annotated[bool, _option("--trust", help="Run a model that is code.", panel=_EXECUTION)] = False,
) -> None:
    """Detect objects in images and scenes that come over HTTP.

    Example: geosod serve --model demo-harbour

    Exit codes: 0 ended by an interrupt; 2 bad usage; 1 a bug.
    """
    from geosod.errors import ConfigError

    try:
        from geosod.serving.server import serve
    except ImportError as error:
        raise ConfigError(f"{error.name} is not installed; pip install 'geosod[serve]'") from error
    from geosod.serving.allowed import parse_allowed
    from geosod.serving.options import Limits, ServeOptions, read_token

    if engine not in ("local", "ray"):
        raise ConfigError(f"--engine {engine!r}: write local or ray")
    if engine == "local" and (replicas is not None or ray_address is not None):
        raise ConfigError("--replicas and --ray-address are of Ray; give --engine ray, too")
    folders = []
    for folder in scenes or ():
        if not folder.is_dir():
            raise ConfigError(f"--scenes {folder}: is no folder; check the path")
        folders.append(folder.resolve())
    run: dict[str, Any] = {"device": device, "backend": backend, "precision": precision, "batch": batch}
    run |= {"threads": threads, "threshold": threshold, "trust": trust or None}
    options = ServeOptions(
        model=model,
        host=host,
        port=port,
        token=None if token_file is None else read_token(token_file),
        anonymous=anonymous,
        allowed_hosts=tuple(parse_allowed(text) for text in allow_host or ()),
        scene_folders=tuple(folders),
        jobs=jobs,
        replicas=(replicas or 0) if engine == "ray" else None,
        ray_address=ray_address,
        settings=run,
        limits=Limits(body_bytes=max_body_mb << 20, pixels=max_mpx * 1_000_000, requests=max_requests, seconds=timeout),
    )

    def started(service: Service) -> None:
        about, worker = service.worker.about, service.worker
        replicas = f"; {worker.replicas} replica(s)" if options.replicas is not None else ""
        print_error(f"{about['name']}: {about['execution']}{replicas}")

    serve(options, on_start=started, on_listening=lambda url: print_error(f"listening on {url}, process {os.getpid()}"))
