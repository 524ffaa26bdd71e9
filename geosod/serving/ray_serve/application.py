"""Whole services as replicas behind Ray Serve's own listener, for KubeRay's RayService and `serve deploy`.

`geosod.serving.ray_serve.application:service` is the import path; its arguments are those of `RayServiceArguments`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ray import serve

from geosod.errors import ConfigError
from geosod.serving.allowed import parse_allowed
from geosod.serving.options import Limits, ServeOptions, read_token
from geosod.serving.requests import invalid


class RayServiceArguments(BaseModel):
    """Arguments of the application; each is as the option of `geosod serve` of that name."""

    model_config = ConfigDict(extra="forbid")

    model: str
    token_file: Path | None = None
    anonymous: bool = False
    allow_host: list[str] = Field(default_factory=list)
    threshold: float | None = None
    max_body_mb: int = Field(64, ge=1, le=4096)
    max_mpx: int = Field(50, ge=1, le=4096)
    max_requests: int = Field(128, ge=1, le=10_000)
    timeout: float = Field(60, ge=1, le=3600)
    device: str | None = None
    backend: str | None = None
    precision: str | None = None
    batch: int | None = Field(None, ge=1)
    threads: int | None = Field(None, ge=1)

    def options(self) -> ServeOptions:
        """How each replica runs. The token is read where the replica is.

        Raises:
            ConfigError: there is no token, and `anonymous` is not set.
        """
        settings = self.model_dump(include={"threshold", "device", "backend", "precision", "batch", "threads"})
        return ServeOptions(
            model=self.model,
            host="0.0.0.0",
            token=None if self.token_file is None else read_token(self.token_file),
            anonymous=self.anonymous,
            allowed_hosts=tuple(parse_allowed(text) for text in self.allow_host),
            settings=settings,
            limits=Limits(
                body_bytes=self.max_body_mb << 20,
                pixels=self.max_mpx * 1_000_000,
                requests=self.max_requests,
                seconds=self.timeout,
            ),
        )


def service(arguments: dict[str, Any]) -> serve.Application:
    """The application that Ray Serve deploys; how many replicas, and what each claims, its configuration says.

    Raises:
        ConfigError: an argument is unusable.
    """
    try:
        found = RayServiceArguments.model_validate(arguments)
    except ValidationError as error:
        raise ConfigError(f"args: {invalid(error.errors()).removesuffix('; see /openapi.json')}") from error
    if found.token_file is None and not found.anonymous:
        raise ConfigError("args: whoever reaches Ray Serve could use the service; give token_file, or anonymous: true")

    def build() -> Any:
        from geosod.serving.app import make_app

        return make_app(found.options())

    replica: Any = serve.ingress(build)()
    deployment = serve.deployment(
        replica,
        name="geosod",
        max_ongoing_requests=found.max_requests,
        graceful_shutdown_timeout_s=found.timeout,
        health_check_timeout_s=30.0,
    )
    return deployment.bind()
