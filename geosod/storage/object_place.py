"""A prefix of an object store (S3, Google Cloud Storage, Azure Blob Storage) that outputs are written to."""

from __future__ import annotations

import io
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

from geosod.errors import ConfigError, OutputError, one_line
from geosod.storage.retry import ATTEMPTS, backoff

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

_T = TypeVar("_T")

#: Seconds for a connection, for an answer, and for all attempts of one request; the waits between them are random.
CONNECT_SECONDS, ANSWER_SECONDS, RETRY_SECONDS = 10, 60, 120
#: How often a file is read and changed anew because another process has changed it meanwhile.
CHANGES = 40
#: Bytes of an object that are requested at least.
_READ_BYTES = 64 << 10
_EXTRAS = {"s3": "s3", "gs": "cloud", "az": "cloud"}


@dataclass(frozen=True, slots=True)
class ObjectPlace:
    """See `geosod.storage.place.Place`. Objects appear whole; nothing is locked, so changes are conditional.

    Attributes:
        address: such as ``s3://bucket/prefix``.
    """

    address: str

    @property
    def shared(self) -> bool:
        """Every machine reaches it."""
        return True

    @property
    def remedy(self) -> str:
        """What to do where it cannot be written."""
        return "check the bucket's name, the credentials and the network"

    def at(self, path: str) -> str:
        """URL of a file."""
        return f"{self.address}/{path}"

    def names(self, folder: str = "") -> Iterator[str]:
        """Paths of the files below a folder, in order, a thousand by one request."""
        import obstore

        last: str | None = None
        for attempt in range(ATTEMPTS):
            try:
                with _os_errors(self.address):
                    for chunk in obstore.list(self._store, folder or None, offset=last):
                        for entry in chunk:
                            yield (last := entry["path"])
                return
            except OSError as error:  # an answer that was cut off; those after it are asked for again
                if attempt + 1 == ATTEMPTS or isinstance(error, PermissionError):
                    raise
            time.sleep(backoff(attempt))

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        import obstore

        try:
            _again(lambda: obstore.head(self._store, path), self.at(path))
        except FileNotFoundError:
            return False
        return True

    def read(self, path: str) -> bytes | None:
        """The content of a file; None where there is none."""
        return self._read(path)[0]

    def open(self, path: str) -> IO[bytes]:
        """A file whose parts are requested as they are read."""
        import obstore

        reader = _again(lambda: obstore.open_reader(self._store, path), self.at(path))
        return io.BufferedReader(_ObjectFile(reader, self.at(path)), _READ_BYTES)

    def flush(self, *files: Path) -> None:
        """Nothing depends on the disk of this machine."""

    def put(self, files: Mapping[Path, str]) -> None:
        """Upload files, in order."""
        import obstore

        for source, path in files.items():
            _again(partial(obstore.put, self._store, path, source), self.at(path))

    def create(self, path: str, content: bytes | Path) -> bool:
        """Write a new file; False where there is one already."""
        import obstore

        content = content.read_bytes() if isinstance(content, Path) else content
        for attempt in range(ATTEMPTS):
            try:
                _again(lambda: obstore.put(self._store, path, content, mode="create"), self.at(path))
                return True
            except FileExistsError:
                there = self.read(path)
            if there is not None:
                # The same where an answer was lost, and the request repeated.
                return there == content
            # S3 refuses one of two requests at once (409), even where the other comes to nothing.
            time.sleep(backoff(attempt))
        raise OSError(f"{self.at(path)}: is refused as if it were there, but is not; run again")

    def change(self, path: str, change: Callable[[bytes | None], bytes | None]) -> None:
        """Replace the content of a file where nobody has changed it meanwhile, else begin anew."""
        import obstore

        lost = 0
        for attempt in range(CHANGES):
            before, version = self._read(path)
            after = change(before)
            if after == before:
                return
            if after is None:
                self.remove(path)
                return
            mode: Any = "create" if before is None else version
            try:
                with _os_errors(self.at(path)):
                    obstore.put(self._store, path, after, mode=mode)
                return
            except FileExistsError:
                pass  # another process was faster
            except OSError:
                lost += 1  # it may have been written all the same, which the next look shows
                if lost == ATTEMPTS:
                    raise
            time.sleep(backoff(min(attempt, 2)))
        raise OSError(f"{self.at(path)}: others change it all the time; run again")

    def remove(self, *paths: str) -> None:
        """Remove files; those that do not exist are ignored."""
        import obstore

        if paths:
            with suppress(FileNotFoundError):
                _again(lambda: obstore.delete(self._store, list(paths)), self.address)

    def remove_folder(self, folder: str) -> None:
        """Remove every object below a prefix."""
        self.remove(*self.names(folder))

    def locked(self, part: str | None = None) -> AbstractContextManager[None]:  # noqa: ARG002
        """Object stores have no locks."""
        return nullcontext()

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A temporary folder of this machine."""
        path = Path(tempfile.mkdtemp(prefix="geosod-"))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def check(self) -> None:
        """Write a small file, see that it is not replaced against the condition of a write, and remove it."""
        probe = f".probe-{secrets.token_hex(8)}"
        self.create(probe, b"geosod tries to write here")
        ignored = self.create(probe, b"this must not replace it")
        self.remove(probe)
        if ignored:
            raise OSError("the service ignores If-None-Match, so two runs could destroy each other's results")

    def remove_empty(self) -> None:
        """A prefix without objects does not exist."""

    def _read(self, path: str) -> tuple[bytes | None, dict[str, str]]:
        """The content of a file, and what identifies its version: an ETag, for Google Cloud Storage its generation."""
        import obstore

        def get() -> tuple[bytes, dict[str, str]]:
            found = obstore.get(self._store, path)
            known = {"e_tag": found.meta["e_tag"], "version": found.meta["version"]}
            return bytes(found.bytes()), {name: value for name, value in known.items() if value is not None}

        try:
            return _again(get, self.at(path))
        except FileNotFoundError:
            return None, {}

    @property
    def _store(self) -> Any:
        return _store(self.address, tuple(sorted(_environment())))


class _ObjectFile(io.RawIOBase):
    """An object as a file of Python."""

    def __init__(self, reader: Any, address: str) -> None:
        super().__init__()
        self._reader, self._address = reader, address

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read as much as fits."""
        start = self._reader.tell()

        def read() -> bytes:
            self._reader.seek(start)
            return bytes(self._reader.read(len(buffer)))

        content = _again(read, self._address)
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to a position."""
        return int(self._reader.seek(offset, whence))

    def tell(self) -> int:
        """The position."""
        return int(self._reader.tell())


def _environment() -> Iterator[tuple[str, str]]:
    prefixes = ("AWS_", "GOOGLE_", "AZURE_", "GCS_")
    return ((k, v) for k, v in os.environ.items() if k.startswith(prefixes) or k == "HOME")


@lru_cache(maxsize=16)
def _store(address: str, _: tuple[tuple[str, str], ...]) -> Any:
    """The client for a prefix; made once for each set of environment variables.

    Raises:
        ConfigError: a package is missing, or the settings in the environment do not fit.
    """
    scheme = address.partition("://")[0]
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError as error:
        extra = _EXTRAS[scheme]
        raise ConfigError(f"{scheme}:// outputs need obstore; run: pip install 'geosod[{extra}]'") from error
    client: dict[str, Any] = {
        "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
        "timeout": timedelta(seconds=ANSWER_SECONDS),
    }
    if scheme == "gs" and os.environ.get("GOOGLE_ALLOW_HTTP", "").lower() == "true":
        client["allow_http"] = True  # what is given here replaces the client's own reading of the environment
    retry: Any = {"max_retries": 10, "retry_timeout": timedelta(seconds=RETRY_SECONDS)}
    settings = _s3_settings(client) if scheme == "s3" else {}
    try:
        return from_url(address, client_options=cast("Any", client), retry_config=retry, **settings)
    except (BaseError, ValueError, OSError) as error:
        raise OutputError(f"{address}: cannot be used: {error}; check the variables of the environment") from error


def _s3_settings(client: dict[str, Any]) -> dict[str, Any]:
    """Settings as scenes on S3 are read with; those of the connection are put into `client`."""
    from geosod.storage.s3 import access

    found = access()
    settings: dict[str, Any] = {"region": found.client.meta.region_name or "us-east-1"}
    if found.endpoint:
        settings |= {"endpoint": found.endpoint, "virtual_hosted_style_request": False}
        client["allow_http"] = found.endpoint.startswith("http://")
    if found.payer:
        settings["request_payer"] = True
    if found.unsigned or found.session.get_credentials() is None:
        return settings | {"skip_signature": True}
    from obstore.auth.boto3 import Boto3CredentialProvider

    return settings | {"credential_provider": Boto3CredentialProvider(found.session)}


def _again(action: Callable[[], _T], address: str) -> _T:
    """Do something that may be done twice until it succeeds; the store's client does not repeat what was cut off."""
    for attempt in range(ATTEMPTS):
        try:
            with _os_errors(address):
                return action()
        except (FileNotFoundError, FileExistsError, PermissionError):
            raise
        except OSError:
            if attempt + 1 == ATTEMPTS:
                raise
        time.sleep(backoff(attempt))
    raise AssertionError("the last attempt raises")


@contextmanager
def _os_errors(address: str) -> Iterator[None]:
    """Errors of obstore as errors of files; FileExistsError where a condition of a write does not hold."""
    from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, PreconditionError

    try:
        yield
    except (AlreadyExistsError, PreconditionError, FileExistsError) as error:
        raise FileExistsError(address) from error
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error):
            raise OSError(f"{address}: there is no such bucket") from error
        raise FileNotFoundError(address) from error
    except (PermissionError, PermissionDeniedError) as error:  # the latter for requests of several objects
        raise PermissionError(f"{address}: access is denied") from error
    except BaseError as error:
        raise OSError(f"{address}: {one_line(error)[:400]}") from error
