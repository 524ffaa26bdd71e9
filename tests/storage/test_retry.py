"""Transient and permanent errors, with the messages of the libraries."""

from __future__ import annotations

import pytest
import requests
from botocore.exceptions import ClientError, EndpointConnectionError
from rasterio.errors import RasterioIOError

from geosod.storage.retry import backoff, is_permanent, is_transient, with_retries


def of_status(status: int) -> requests.HTTPError:
    answer = requests.Response()
    answer.status_code = status
    return requests.HTTPError(f"{status} for url", response=answer)


def of_s3(code: str, status: int) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    "error",
    [
        *(RasterioIOError(f"HTTP response code: {s}") for s in (408, 429, 500, 502, 503, 504)),
        *(of_status(s) for s in (429, 500, 503)),
        of_s3("SlowDown", 503),
        RasterioIOError("TIFFFillTile:Read error at row 1024, col 1024, tile 3; got 778169 bytes, expected 781694"),
        requests.ConnectionError("('Connection aborted.', ConnectionResetError(104, 'Connection reset by peer'))"),
        requests.ReadTimeout("Read timed out. (read timeout=30)"),
        EndpointConnectionError(endpoint_url="http://127.0.0.1:9/"),
        RasterioIOError("CURL error: Operation too slow. Less than 1000 bytes/sec transferred the last 20 seconds"),
        ConnectionError("incomplete read: 3 of 10 bytes"),
    ],
)
def test_transient_errors(error: Exception) -> None:
    assert is_transient(error) and not is_permanent(error)
    try:
        raise RuntimeError("Read failed. See previous exception for details.") from error
    except RuntimeError as outer:
        assert is_transient(outer)


@pytest.mark.parametrize(
    "error",
    [
        *(RasterioIOError(f"HTTP response code: {s}") for s in (400, 401, 403, 404, 410)),
        *(of_status(s) for s in (401, 403, 404)),
        of_s3("ExpiredToken", 400),
        of_s3("NoSuchKey", 404),
        RasterioIOError("'/vsicurl/http://h/a.tif' not recognized as being in a supported file format."),
        RasterioIOError("ZIPDecode:Decoding error at scanline 0"),
        RasterioIOError("AccessDenied: Access Denied"),
    ],
)
def test_permanent_errors(error: Exception) -> None:
    assert not is_transient(error) and is_permanent(error)


def test_waits_double_up_to_a_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    longest = [0.5, 1, 2, 4, 8, 8]
    for _ in range(50):
        assert all(most / 2 <= backoff(n) <= most for n, most in enumerate(longest))
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    calls = [of_status(503)] * 3

    def action() -> str:
        if calls:
            raise calls.pop()
        return "done"

    assert with_retries(action) == "done"
    assert len(waits) == 3 and all(most / 2 <= wait <= most for wait, most in zip(waits, longest, strict=False))
    calls.extend([of_status(503)] * 9)
    with pytest.raises(requests.HTTPError):
        with_retries(action)
    assert len(calls) == 5 and len(waits) == 6
    calls.append(of_status(404))
    with pytest.raises(requests.HTTPError):
        with_retries(action)
    assert len(calls) == 5
