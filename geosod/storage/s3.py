"""How S3 buckets are reached: credentials, region and endpoint from boto3's standard chain."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from geosod.errors import ConfigError, SceneError

#: Timeouts in seconds: to connect, and between two bytes of a response.
CONNECT_SECONDS, READ_SECONDS = 10, 30


@dataclass(frozen=True, slots=True, eq=False)
class Access:
    """Access to S3 from this process.

    Attributes:
        session: boto3 session; it renews credentials itself.
        client: its S3 client, which threads may share.
        endpoint: URL of an S3 service other than AWS, or None.
        unsigned: whether requests carry no credentials.
        payer: "requester" where the reader pays for requests, or None.
    """

    session: Any
    client: Any
    endpoint: str | None
    unsigned: bool
    payer: str | None

    def gdal_options(self) -> dict[str, str]:
        """GDAL options with credentials that are valid for minutes at least; SceneError without any."""
        options = {"AWS_REGION": self.client.meta.region_name or "us-east-1"}
        if self.payer:
            options["AWS_REQUEST_PAYER"] = self.payer
        if self.endpoint:
            parts = urlsplit(self.endpoint)
            options |= {"AWS_S3_ENDPOINT": parts.netloc, "AWS_VIRTUAL_HOSTING": "FALSE"}
            options["AWS_HTTPS"] = "NO" if parts.scheme == "http" else "YES"
        if self.unsigned:
            return options | {"AWS_NO_SIGN_REQUEST": "YES"}
        found = self.session.get_credentials()
        if found is None:
            raise SceneError(
                "no AWS credentials found; set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                "AWS_NO_SIGN_REQUEST=YES for a public bucket"
            )
        keys = found.get_frozen_credentials()
        options |= {"AWS_ACCESS_KEY_ID": keys.access_key, "AWS_SECRET_ACCESS_KEY": keys.secret_key}
        # An empty token overrides one in the environment that belongs to other keys.
        return options | {"AWS_SESSION_TOKEN": keys.token or "", "AWS_NO_SIGN_REQUEST": "NO"}

    def request(self) -> dict[str, str]:
        """Parameters of every request besides bucket and key."""
        return {"RequestPayer": self.payer} if self.payer else {}


_lock = threading.Lock()


def pay_for_requests() -> None:
    """Let this process, and those that it starts, pay for requests to buckets whose reader pays."""
    os.environ["AWS_REQUEST_PAYER"] = "requester"


def access() -> Access:
    """Access to S3 for the current environment variables; created once for each set of them.

    ConfigError where boto3 is not installed, or the requested profile does not exist.
    """
    environment = tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith("AWS_") or k == "HOME"))
    with _lock:
        return _access(environment)


@lru_cache(maxsize=4)
def _access(_: tuple[tuple[str, str], ...]) -> Access:
    try:
        import boto3
        from botocore import UNSIGNED
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise ConfigError("s3:// scenes need boto3; run: pip install 'geosod[s3]'") from error
    unsigned = os.environ.get("AWS_NO_SIGN_REQUEST", "").upper() in ("YES", "TRUE", "ON", "1")
    given = os.environ.get("AWS_S3_ENDPOINT") or None
    if given and "://" not in given:
        plain = os.environ.get("AWS_HTTPS", "YES").upper() in ("NO", "FALSE", "OFF", "0")
        given = f"{'http' if plain else 'https'}://{given}"
    settings: dict[str, Any] = {
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": READ_SECONDS,
        "retries": {"max_attempts": 4, "mode": "standard"},
        "max_pool_connections": 32,
    }
    if unsigned:
        settings["signature_version"] = UNSIGNED
    try:
        session = boto3.Session()
        region = session.region_name or os.environ.get("AWS_REGION") or "us-east-1"
        client = session.client("s3", region_name=region, endpoint_url=given, config=Config(**settings))
        endpoint = client.meta.endpoint_url
        custom = ".amazonaws.com" not in (urlsplit(endpoint).hostname or "")
        if custom:
            config = Config(**settings, s3={"addressing_style": "path"})
            client = session.client("s3", region_name=region, endpoint_url=endpoint, config=config)
    except (BotoCoreError, ValueError) as error:
        raise ConfigError(f"AWS settings cannot be used: {error}; check AWS_PROFILE and the AWS_ variables") from error
    return Access(session, client, endpoint if custom else None, unsigned, os.environ.get("AWS_REQUEST_PAYER") or None)
