"""Buckets, the way AWS's own tools find theirs: credentials, region and endpoint from boto3's chain."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from geosod.errors import ConfigError, SceneError

#: Seconds until a connection must stand, and between two bytes of an answer.
CONNECT_SECONDS, READ_SECONDS = 10, 30


@dataclass(frozen=True, slots=True, eq=False)
class Access:
    """How buckets are reached from this process.

    Attributes:
        session: boto3's, which renews its credentials itself.
        client: its S3 client; boto3's clients may be shared by threads.
        endpoint: URL of a service other than AWS, or None.
        unsigned: requests carry no credentials.
        payer: who pays for requests, "requester" or None.
    """

    session: Any
    client: Any
    endpoint: str | None
    unsigned: bool
    payer: str | None

    def gdal_options(self) -> dict[str, str]:
        """GDAL's settings for these buckets, with credentials that are good for the next minutes at least.

        Raises:
            SceneError: there are no credentials.
        """
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
        # An empty token stands in for one that the environment may hold for other keys.
        return options | {"AWS_SESSION_TOKEN": keys.token or "", "AWS_NO_SIGN_REQUEST": "NO"}

    def request(self) -> dict[str, str]:
        """What every request of the client says besides bucket and key."""
        return {"RequestPayer": self.payer} if self.payer else {}


_making = threading.Lock()


def access() -> Access:
    """How buckets are reached, from the environment as it is now; made once for each environment.

    Raises:
        ConfigError: boto3 is not installed, or a profile that is asked for is not there.
    """
    environment = tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith("AWS_") or k == "HOME"))
    with _making:
        return _access(environment)


@lru_cache(maxsize=4)
def _access(_: tuple[tuple[str, str], ...]) -> Access:
    try:
        import boto3
        from botocore import UNSIGNED
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise ConfigError("s3:// scenes need boto3; install it with: pip install 'geosod[s3]'") from error
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
