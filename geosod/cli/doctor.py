"""`geosod doctor`: versions and hardware of this machine, and what is missing."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import psutil
import typer
from rich.console import Console
from rich.table import Table

from geosod.cli.printing import Json, print_json
from geosod.cli.streams import print_error
from geosod.detectors.adapters import BACKENDS, RUNTIMES
from geosod.machine import usable_cpus
from geosod.version import __version__

PACKAGES = ("ray", "torch", "torchvision", "rasterio", "geopandas", "shapely", "pyproj", "pyarrow", "numba", "numpy")
CODECS = ("DEFLATE", "LZW", "ZSTD", "JPEG", "WEBP", "LERC", "JXL")


def doctor_command(
    check_ray: Annotated[bool, typer.Option("--ray/--no-ray", help="Check that Ray starts on this machine.")] = True,
    model: Annotated[
        str | None, typer.Option("--model", help="Measure this model by backend and precision, and keep the times.")
    ] = None,
    json: Json = False,
) -> None:
    """Show versions, cores, GPU, backends, codecs, Ray and disk space.

    Example: geosod doctor --no-ray

    Exit codes: 0 no problems found; 3 something is missing.
    """
    problems: list[str] = []
    rows = (
        _system() | _packages(problems) | _numba() | _torch() | _backends() | _detector(model)
        | _gdal(problems) | (_ray(problems) if check_ray else {})
    )  # fmt: skip
    if json:
        print_json({"geosod": __version__, "found": rows, "problems": problems})
        raise typer.Exit(3 if problems else 0)
    table = Table(show_header=False, box=None, title=f"geosod {__version__}", title_justify="left")
    for name, value in rows.items():
        table.add_row(name, value)
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    for problem in problems:
        console.print(f"problem: {problem}", style="red", markup=False)
    if problems:
        raise typer.Exit(3)
    console.print("no problems found", style="green")


def _system() -> dict[str, str]:
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(os.curdir)
    shm = psutil.disk_usage("/dev/shm") if os.path.isdir("/dev/shm") else None  # noqa: PTH112
    return {
        "python": f"{platform.python_version()} on {platform.platform(terse=True)} {platform.machine()}",
        "cores": f"{usable_cpus()} usable of {os.cpu_count()}",
        "memory": f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB available",
        "free disk space": f"{disk.free / 2**30:.0f} GiB in this folder",
        "shared memory": f"{shm.free / 2**30:.1f} GiB free" if shm else "no /dev/shm",
    }


def _packages(problems: list[str]) -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
            problems.append(f"{name} is not installed; run `pip install geosod` again")
    return found


def _numba() -> dict[str, str]:
    from geosod.compiled import cache_folder

    none = "none, so every process compiles for some seconds; set NUMBA_CACHE_DIR to a folder that can be written to"
    return {"numba's cache": cache_folder() or none}


def _torch() -> dict[str, str]:
    from geosod.detectors.execution import gpu_names

    return {"GPU": ", ".join(gpu_names()) or "none"}


def _backends() -> dict[str, str]:
    found = {}
    for name, extra in RUNTIMES.items():
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = f"not installed; pip install 'geosod[{extra}]'"
    return found


def _detector(model: str | None) -> dict[str, str]:
    """How detectors run here: as geosod's own networks do by rule, or as a model was measured."""
    from geosod.detectors.execution import resolve
    from geosod.detectors.ways import Abilities, this_machine

    if model is None:
        abilities = Abilities(BACKENDS["zoo"])
        return {"detector": resolve(this_machine(), tile=(1024, 1024), abilities=abilities)[1]}
    from geosod.detectors.measure import measure, remember
    from geosod.running.detect import make_job
    from geosod.running.job import resolve_execution

    job = make_job(model)
    execution, _ = resolve_execution(job)
    device, threads = execution.device, execution.threads
    print_error(f"measuring {job.model.card.name}, which takes up to some minutes")
    found = measure(job.model, job.tile, device=device, threads=threads, report=print_error)
    remember(job.model, job.tile, found, device=device, threads=threads)
    times = {f"{m.backend} {m.precision}": f"{1 / m.seconds:.2f} tiles/s" for m in found}
    return {"detector": resolve_execution(job)[1], **times}


def _gdal(problems: list[str]) -> dict[str, str]:
    from geosod.storage.codecs import gdal_version, proj_works, usable_codecs

    if not proj_works():
        named = ", ".join(f"{name}={os.environ[name]}" for name in ("PROJ_DATA", "PROJ_LIB") if name in os.environ)
        problems.append(
            f"PROJ cannot read its database ({named or 'no PROJ_DATA is set'}); unset PROJ_DATA and PROJ_LIB"
        )
    codecs = usable_codecs(CODECS)
    if "DEFLATE" not in codecs:
        problems.append("GDAL cannot write a DEFLATE GeoTIFF; install the rasterio wheel from PyPI")
    return {"GDAL": gdal_version(), "codecs": ", ".join(codecs)}


def _ray(problems: list[str]) -> dict[str, str]:
    from geosod.errors import ClusterError
    from geosod.running.ray_engine import describe

    try:
        return {"Ray": describe()}
    except ClusterError as error:
        problems.append(str(error))
        return {"Ray": "does not start"}
