"""What the service is started with."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path

from geosod.errors import ConfigError
from geosod.serving.allowed import AllowedHost

_TOKEN = re.compile(rb"[\x21-\x7e]{16,512}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of what the service takes on.

    Attributes:
        body_bytes: of a request's body.
        pixels: of an image.
        requests: in progress at once; more are answered with 429.
        bytes_in_progress: of the bodies and pixels of all requests in progress.
        seconds: of a request, once its body has arrived.
        body_seconds: in which a body must arrive, and in which the headers must.
        connections: open at once.
        jobs: kept, and `queued_jobs` of them waiting.
        scenes_per_job: scenes a job may name.
        scene_bytes: of a scene that is downloaded for a job.
    """

    body_bytes: int = 64 << 20
    pixels: int = 50_000_000
    requests: int = 128
    bytes_in_progress: int = 2 << 30
    seconds: float = 60.0
    body_seconds: float = 30.0
    connections: int = 1024
    jobs: int = 1000
    queued_jobs: int = 100
    scenes_per_job: int = 1000
    scene_bytes: int = 8 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """How the service runs.

    Attributes:
        model: name, bundle's folder or ``module:function`` of the model.
        host, port: where it listens.
        token: that clients must send; None for no token.
        anonymous: whether other machines may use it without a token.
        allowed_hosts: from which images and scenes may be fetched.
        scene_folders: resolved folders whose scenes jobs may name.
        jobs: folder of jobs and their results; None: there are no jobs.
        replicas: of the model, by Ray Serve, 0 for as many as the cluster holds; None: one model, in this process.
        ray_address: of the cluster; None takes RAY_ADDRESS, or else starts Ray on this machine.
        settings: of `RunConfig`, for the detector: device, backend, precision, batch, threads, threshold, trust.
        limits: bounds.
    """

    model: str
    host: str = "127.0.0.1"
    port: int = 8080
    token: bytes | None = None
    anonymous: bool = False
    allowed_hosts: tuple[AllowedHost, ...] = ()
    scene_folders: tuple[Path, ...] = ()
    jobs: Path | None = None
    replicas: int | None = None
    ray_address: str | None = None
    settings: dict[str, object] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not (self.is_local or self.token or self.anonymous):
            raise ConfigError(
                f"host {self.host!r}: other machines could use the service without a token; give --token-file FILE, or "
                "--anonymous where whoever reaches it may use it"
            )

    @property
    def is_local(self) -> bool:
        """Whether it listens to this machine alone."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def read_token(path: Path) -> bytes:
    """The bearer token in a file.

    Raises:
        ConfigError: the file cannot be read, or holds no token.
    """
    try:
        with path.open("rb") as file:
            token = file.read(4096).strip()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; check --token-file") from error
    if not _TOKEN.fullmatch(token):
        raise ConfigError(
            f"{path}: holds no token; write one line of 16 to 512 printable characters without spaces, such as that of "
            "openssl rand -hex 32"
        )
    return token
