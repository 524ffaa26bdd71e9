"""Notifications of committed scenes: a signed request, or a command. Each arrives at least once."""

from __future__ import annotations

import hashlib
import hmac
import json
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from geosod.errors import ConfigError, redacted
from geosod.ingest.config import IngestConfig
from geosod.ingest.ledger import Ledger
from geosod.output.folder import OutputFolder

#: Seconds for one notification; how often it is tried, and the first wait.
SECONDS, ATTEMPTS, RETRY_SECONDS = 30, 8, 30.0
SIGNATURE = "X-Geosod-Signature"
_AT_ONCE = 20


class Notifier:
    """Sends notifications as the settings say.

    Args:
        config: the settings.

    Raises:
        ConfigError: the key cannot be read or is short, the command is none, or there is no key for an address.
    """

    def __init__(self, config: IngestConfig) -> None:
        self._url, self._command = config.notify_url, _arguments(config.notify_command)
        self._key = None if config.notify_key_file is None else _key(config.notify_key_file)
        if self._url is not None and self._key is None:
            raise ConfigError("notify_url needs notify_key_file, a file with the key that its receiver checks")

    @property
    def active(self) -> bool:
        """Whether anyone is notified."""
        return self._url is not None or bool(self._command)

    def send_due(
        self, ledger: Ledger, folder: OutputFolder, say: Callable[[str], None], retry_seconds: float = RETRY_SECONDS
    ) -> int:
        """Send what is due; the number of notifications that arrived. Others are tried again later."""
        sent = 0
        while self.active and (
            rows := ledger.upkeep.claim_notices(_AT_ONCE, attempts=ATTEMPTS, retry_seconds=retry_seconds)
        ):
            for row in rows:
                problem = self.send(_message(row, folder))
                if problem is None:
                    ledger.upkeep.notified(row.id)
                    sent += 1
                else:
                    say(f"{row.scene_id}: notification {row.notice_attempts + 1} of {ATTEMPTS} failed: {problem}")
        return sent

    def send(self, message: dict[str, Any]) -> str | None:
        """Send one; why that failed, or None."""
        body = json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode()
        try:
            if self._url is not None:
                self._post(self._url, body)
            if self._command:
                subprocess.run(self._command, input=body, timeout=SECONDS, check=True, capture_output=True)
        except (requests.RequestException, subprocess.SubprocessError, OSError) as error:
            return redacted(" ".join(str(error).split()))[:300]
        return None

    def _post(self, url: str, body: bytes) -> None:
        assert self._key is not None
        headers = {"Content-Type": "application/json", SIGNATURE: signature(self._key, body, int(time.time()))}
        response = requests.post(url, data=body, headers=headers, timeout=SECONDS, allow_redirects=False)
        if response.status_code >= 300:
            raise requests.HTTPError(f"{url} answers with status {response.status_code}")


def signature(key: bytes, body: bytes, seconds: int) -> str:
    """The header of a message: the time it was signed, and HMAC-SHA256 of that time, a dot and the body."""
    return f"t={seconds},v1={hmac.new(key, b'%d.' % seconds + body, hashlib.sha256).hexdigest()}"


def _message(row: Any, folder: OutputFolder) -> dict[str, Any]:
    return {
        "event": "scene.committed",
        "id": row.key,
        "dataset": folder.place.address,
        "scene_id": row.scene_id,
        "collection": row.collection,
        "item": row.item,
        "version": row.version,
        "stac_item": folder.place.at(folder.item(row.scene_id)),
    }


def _arguments(command: str | None) -> list[str]:
    try:
        found = [] if command is None else shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"notify_command {command!r}: {error}") from error
    if command is not None and not found:
        raise ConfigError("notify_command is empty; leave it out")
    return found


def _key(path: Path) -> bytes:
    try:
        key = path.expanduser().read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"notify_key_file {path}: cannot be read: {error.strerror}") from error
    if len(key) < 16:
        raise ConfigError(f"notify_key_file {path}: has {len(key)} bytes, which is too short for a key; 32 are usual")
    return key
