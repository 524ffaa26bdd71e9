"""`geosod submit`: a run of `geosod detect` as a job of a Ray cluster."""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geosod.cli.streams import print_error
from geosod.errors import ConfigError

if TYPE_CHECKING:
    from geosod.config import RunConfig
    from geosod.running.ray_engine.jobs import JobSpec

#: What Ray and file systems take as a name.
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,120}")


def submit_command(
    name: Annotated[str, typer.Argument(help="The job's name (submission id); a name belongs to one run.")],
    arguments: Annotated[
        list[str], typer.Argument(help="After --, the arguments of geosod detect.", show_default=False)
    ],
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            help="The cluster's job server, http://HEAD:8265; else RAY_API_SERVER_ADDRESS or RAY_ADDRESS.",
            show_default=False,
        ),
    ] = None,
    working_dir: Annotated[
        Path | None,
        typer.Option(
            "--working-dir",
            help="Folder to send along, for bundles and files of settings; scenes and outputs in it are left out.",
            show_default=False,
        ),
    ] = None,
    attempts: Annotated[
        int, typer.Option("--attempts", min=1, max=100, help="How often a run that is lost is submitted.")
    ] = 3,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the log until the job ends.")] = True,
) -> None:
    """Run geosod detect as a job on a Ray cluster, follow its log, and submit it again where it is lost.

    Example: geosod submit june --address http://HEAD:8265 -- --config s3://bucket/june.yaml

    Exit codes: those of the run; 130 if the job was stopped. A name that exists is followed, not started again.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"job name {name!r}: use letters, digits, '.', '_' and '-', with a letter or digit first")
    with ExitStack() as stack:
        spec = job_spec(arguments, working_dir, stack)
        from geosod.running.ray_engine.jobs import JobServer, run_job

        server = JobServer(address)
        if not wait:
            other = server.twin(spec)
            new = other is None and server.submit(name, spec)
            about = "is submitted" if new else "exists" if other in (None, name) else f"is not needed: {other} does it"
            print_error(f"job {name} {about}; the same command without --no-wait follows it")
            return
        try:
            state = run_job(server, name, spec, attempts=attempts, say=print_error, write=_write)
        except KeyboardInterrupt:
            print_error(f"job {name} goes on; the same command follows it, `ray job stop {name}` ends it")
            raise
    endings = {0: "done", 2: "refused", 3: "finished, but some ground or scenes failed", 130: "stopped"}
    print_error(f"job {state.name}: {endings.get(state.code, f'failed ({state.message})')}")
    raise typer.Exit(state.code)


def job_spec(arguments: list[str], working_dir: Path | None, stack: ExitStack) -> JobSpec:
    """The job that runs `geosod detect` with some arguments; a local file of settings is checked, and sent along.

    Args:
        arguments: those of `geosod detect`.
        working_dir: the folder to send along, if any.
        stack: removes what is made on the way.

    Raises:
        ConfigError: the file of settings is wrong or does not lie in the folder, or there is no such folder.
    """
    from geosod.cli.job_file import read_job
    from geosod.running.ray_engine.jobs import JobSpec
    from geosod.storage.uris import LOCAL_SUFFIXES

    if working_dir is not None and not working_dir.is_dir():
        raise ConfigError(f"working directory {working_dir}: is not a folder; check --working-dir")
    words = list(arguments)
    place = _value_of("--config", words)
    config = read_job(None if place is None else words[place])[1]
    if place is not None and "://" not in words[place]:
        working_dir, words[place] = _sent(Path(words[place]).expanduser(), working_dir, stack)
    rasters = [f"*{end}" for suffix in LOCAL_SUFFIXES for end in (suffix, suffix.upper())]
    excludes = (*rasters, "*.parquet", *_out_in(words, config, working_dir))
    entrypoint = shlex.join(["python", "-m", "geosod", "detect", *words])
    content = b"" if place is None or "://" in words[place] else Path(working_dir or ".", words[place]).read_bytes()
    run = hashlib.sha256(entrypoint.encode() + b"\0" + content).hexdigest()
    return JobSpec(entrypoint, working_dir, excludes, run)


def _value_of(option: str, words: list[str]) -> int | None:
    """The place of an option's value; `--option=value` is taken apart."""
    for i, word in enumerate(words):
        if word == option and i + 1 < len(words):
            return i + 1
        if word.startswith(f"{option}="):
            words[i : i + 1] = [option, word.partition("=")[2]]
            return i + 1
    return None


def _sent(file: Path, working_dir: Path | None, stack: ExitStack) -> tuple[Path, str]:
    """The folder to send, and the file's name in it; a folder with this file alone where none was given."""
    if working_dir is None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="geosod-")))
        shutil.copy(file, folder / file.name)
        return folder, file.name
    try:
        return working_dir, file.resolve().relative_to(working_dir.resolve()).as_posix()
    except ValueError:
        raise ConfigError(
            f"config {file}: does not lie in {working_dir}, which is what is sent; move it there, or leave out "
            "--working-dir"
        ) from None


def _out_in(words: list[str], config: RunConfig, working_dir: Path | None) -> list[str]:
    """The output folder as an exclusion, where it lies in the working directory."""
    place = _value_of("--out", words) or _value_of("-o", words)
    out = config.out if place is None else words[place]
    if working_dir is None or not out or "://" in out:
        return []
    root = working_dir.resolve()
    found = (root / out).resolve()
    return [f"/{found.relative_to(root).as_posix()}"] if found.is_relative_to(root) and found != root else []


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
