"""`POST /small-object-detection`: every field of the source document, and the envelope on every error."""

from __future__ import annotations

import base64
import io
import json
import uuid
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image
from rasterio.io import MemoryFile

import geosod
from geosod.serving.options import Limits
from tests.serving.running import SETTINGS, Running, check_envelope, drawn, encoded, file_of, running


def rows(found: geosod.Detections) -> list[tuple[list[float], int, float]]:
    order = np.argsort(-found.scores, kind="stable")
    return [(found.boxes[i].tolist(), int(found.labels[i]), float(found.scores[i])) for i in order]


def answered(response: requests.Response) -> list[tuple[list[float], int, float]]:
    assert response.status_code == 200, response.text[:300]
    objects = response.json()["result"]["detectedObjects"]
    return [(one["bbox"], one["categoryId"], one["score"]) for one in objects]


@pytest.fixture(scope="module")
def detector(rgb_bundle: Path) -> geosod.Detector:
    return geosod.load_model(rgb_bundle, batch=1, **SETTINGS)  # type: ignore[arg-type]


def test_the_answer_field_by_field(served: Running, detector: geosod.Detector) -> None:
    image = drawn()
    response = served.infer(image)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["logId", "errorCode", "errorMsg", "result"]
    assert uuid.UUID(body["logId"]).version == 4
    assert body["errorCode"] == 0 and type(body["errorCode"]) is int
    assert body["errorMsg"] == "Success"
    assert list(body["result"]) == ["detectedObjects", "image"]
    objects = body["result"]["detectedObjects"]
    assert len(objects) > 10
    for one in objects:
        assert list(one) == ["bbox", "categoryId", "score"]
        assert len(one["bbox"]) == 4 and all(type(v) is float for v in one["bbox"])
        assert type(one["categoryId"]) is int and type(one["score"]) is float
    # The oracle: the detector itself, on the same pixels.
    assert answered(response) == rows(detector.detect(np.moveaxis(image, 2, 0)))
    content = base64.b64decode(body["result"]["image"], validate=True)
    picture = Image.open(io.BytesIO(content))
    assert picture.format == "JPEG" and picture.size == (120, 96)
    assert np.abs(np.asarray(picture, int) - image).max() > 60  # boxes are drawn


@pytest.mark.parametrize(
    "header",
    [None, "application/json; charset=utf-8", "text/plain", "application/x-www-form-urlencoded", "nonsense", ""],
)
def test_json_is_read_whatever_the_header_says(served: Running, header: str | None) -> None:
    session = requests.Session()
    request = requests.Request(
        "POST", f"{served.url}/small-object-detection", data=json.dumps({"image": encoded(drawn())})
    )
    prepared = request.prepare()
    prepared.headers.pop("Content-Type", None)
    if header is not None:
        prepared.headers["Content-Type"] = header
    assert session.send(prepared, timeout=30).status_code == 200


def test_an_image_larger_than_a_tile_is_detected_in_as_a_scene(served: Running, rgb_bundle: Path) -> None:
    image = drawn(200, 333)
    scene = geosod.ArrayScene(np.moveaxis(image, 2, 0), id="image")
    settings = {k: v for k, v in SETTINGS.items() if k != "threads"}
    whole = geosod.detect(scene, model=rgb_bundle, engine="serial", batch=1, threads=1, **settings)  # type: ignore[arg-type]
    found = answered(served.infer(image))
    assert found == rows(whole["image"].detections)
    assert max(box[2] for box, _, _ in found) > 300


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_formats(served: Running, detector: geosod.Detector, kind: str) -> None:
    content = file_of(drawn(), kind)
    with MemoryFile(content) as file, file.open() as dataset:
        pixels = dataset.read()  # decoders of JPEG differ in the last bit
    assert answered(served.infer(encoded(content))) == rows(detector.detect(pixels))


def test_grey_and_palette_images_become_colour(served: Running, detector: geosod.Detector) -> None:
    grey = drawn()[:, :, 0]
    expected = rows(detector.detect(np.stack([grey] * 3)))
    assert answered(served.infer(encoded(file_of(grey)))) == expected
    palette = Image.fromarray(drawn()).quantize(16)
    colours = np.moveaxis(np.asarray(palette.convert("RGB")), 2, 0)
    assert answered(served.infer(encoded(file_of(palette)))) == rows(detector.detect(colours))


def test_transparent_pixels_are_invalid(served: Running, detector: geosod.Detector) -> None:
    image, opaque = drawn(), np.full((96, 120), 255, np.uint8)
    opaque[:, 60:] = 0
    pixels = np.ma.masked_array(np.moveaxis(image, 2, 0), np.broadcast_to(opaque == 0, (3, 96, 120)))
    found = answered(served.infer(encoded(file_of(np.dstack([image, opaque])))))
    assert found == rows(detector.detect(pixels))
    assert found != rows(detector.detect(np.moveaxis(image, 2, 0)))


def test_base64_may_have_line_breaks(served: Running) -> None:
    text = base64.encodebytes(file_of(drawn())).decode()
    assert "\n" in text and served.infer(text).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b"\xff\xfe\x00", 400, "not JSON"),
        (b"[" * 100_000, 400, "not JSON"),
        (b"1" * 5000, 400, "not JSON"),
        (b"[]", 422, "array"),
        (b"null", 422, "null"),
        (b"{}", 422, "no field image"),
        (b'{"image": null}', 422, "null"),
        (b'{"image": 7}', 422, "number"),
        (b'{"image": ""}', 422, "empty"),
        (b'{"image": "AAAA", "threshold": 0.1}', 422, "threshold"),
        (b'{"image": "\\ud800"}', 422, "base64"),
        (b'{"image": "AAA"}', 422, "base64"),
        (b'{"image": "AAAA"}', 422, "GeoTIFF, JPEG or PNG"),
        (b'{"image": "https://example.com/a.png"}', 403, "--allow-host example.com"),
    ],
)
def test_refused_bodies(served: Running, body: bytes, status: int, message: str) -> None:
    found = check_envelope(served.post("/small-object-detection", data=body), status)
    assert message in found["errorMsg"]


def test_images_that_do_not_fit_the_model(served: Running) -> None:
    deep = file_of(Image.fromarray(np.zeros((8, 8), np.uint16)))
    assert "uint16" in check_envelope(served.infer(encoded(deep)), 422)["errorMsg"]
    with MemoryFile() as file:
        with file.open(driver="GTiff", width=8, height=8, count=5, dtype="uint8") as out:
            out.write(np.zeros((5, 8, 8), np.uint8))
        five = bytes(file.read())
    assert "5 bands" in check_envelope(served.infer(encoded(five)), 422)["errorMsg"]
    broken = file_of(drawn())[:2000]
    assert "damaged" in check_envelope(served.infer(encoded(broken)), 422)["errorMsg"]


def test_statuses_of_http_have_the_envelope_too(served: Running) -> None:
    check_envelope(served.get("/nothing"), 404)
    refused = served.get("/small-object-detection")
    check_envelope(refused, 405)
    assert refused.headers["allow"] == "POST"
    check_envelope(served.infer(drawn(), headers={"Content-Encoding": "gzip"}), 415)
    big = check_envelope(served.post("/small-object-detection", data=b"x" * (2 << 20)), 413)
    assert "1,048,576" in big["errorMsg"]
    check_envelope(served.post("/small-object-detection", data=iter([b"x" * (1 << 19)] * 3)), 413)
    check_envelope(served.infer(drawn(), headers={"Origin": "https://evil.example"}), 403)
    check_envelope(served.infer(drawn(), headers={"Host": "rebound.example"}), 403)


def test_a_token(rgb_bundle: Path) -> None:
    with running(rgb_bundle, token=b"0123456789abcdef") as service:
        refused = service.infer(drawn())
        check_envelope(refused, 401)
        assert refused.headers["www-authenticate"] == "Bearer"
        for wrong in ("Bearer 0123456789abcdeF", "Bearer", "Basic 0123456789abcdef", "0123456789abcdef", "Bearer é"):
            check_envelope(service.infer(drawn(), headers={"Authorization": wrong.encode("latin-1")}), 401)
        right = {"Authorization": "Bearer 0123456789abcdef"}
        assert service.infer(drawn(), headers=right | {"Host": "any.example"}).status_code == 200
        check_envelope(service.get("/models"), 401)
        check_envelope(service.get("/metrics"), 401)
        assert service.get("/healthz").json() == service.get("/readyz").json() == {"status": "ok"}
        document = service.get("/openapi.json", headers=right).json()
        assert document["security"] == [{"token": []}]


def test_other_machines_need_a_token_or_a_word(rgb_bundle: Path) -> None:
    from geosod.errors import ConfigError
    from geosod.serving.options import ServeOptions

    with pytest.raises(ConfigError, match="--token-file"):
        ServeOptions(model="x", host="0.0.0.0")
    ServeOptions(model="x", host="0.0.0.0", anonymous=True)
    ServeOptions(model="x", host="::1")


def test_a_full_service_says_when_to_come_again(rgb_bundle: Path) -> None:
    with running(rgb_bundle, limits=Limits(requests=0)) as service:
        refused = service.infer(drawn())
        check_envelope(refused, 429)
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        check_envelope(service.post("/detect", data=b"x"), 429)
    with running(rgb_bundle, limits=Limits(bytes_in_progress=100_000)) as service:
        check_envelope(service.infer(drawn(300, 300)), 429)
        assert service.infer(drawn(20, 20)).status_code == 200
        assert service.service.budget.bytes == service.service.budget.requests == 0


def test_what_the_service_says_of_itself(served: Running) -> None:
    (model,) = served.get("/models").json()["models"]
    assert model["classes"] == ["ship", "car"] and model["bands"] == ["red", "green", "blue"]
    assert model["tile"] == [128, 128] and len(model["digest"]) == 64
    before = served.metric('geosod_requests_total{operation="infer",status="200"}')
    served.infer(drawn())
    assert served.metric('geosod_requests_total{operation="infer",status="200"}') == before + 1
