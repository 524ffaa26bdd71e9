"""Scenes over http: the same boxes as from the local file, few requests, and no secrets in any output."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import geopandas
import pytest
import rasterio
import rasterio.shutil
import shapely

from geosod.running.events import Failed, SceneFinished
from tests.rasters import noise, write_tif
from tests.remote.conftest import pixels_of
from tests.remote.server import Fault, Request
from tests.running.helpers import PLAIN, detect, files

SIGNATURE = "X-Amz-Signature=5ecretS1gnature&X-Amz-Credential=AK1D&token=t0psecret"
SECRETS = ("5ecretS1gnature", "AK1D", "t0psecret", "passw0rd")


def test_nginx_gives_the_same_result_as_the_file(nginx, rgb_bundle, local_tables, tmp_path) -> None:
    result = detect(f"{nginx}/scene.tif", rgb_bundle, tmp_path, unit=(2, 3))
    assert result.exit_code == 0 and pixels_of(tmp_path) == local_tables
    assert detect(f"{nginx}/scene.tif", rgb_bundle, tmp_path, unit=(2, 3)).scenes[0].status == "skipped"


@pytest.mark.parametrize("signature", [SIGNATURE, SIGNATURE.replace("X-Amz-Signature", "sig")])
def test_signed_links_work_and_stay_secret(
    signature, scene, serve, rgb_bundle, local_tables, tmp_path, caplog, capfd
) -> None:
    """The link is valid for GET only, and expires."""
    server = serve(scene.parent, keys={"/scene.tif": signature})
    server.fault = lambda r: Fault(status=403) if r.method == "HEAD" else None
    link = server.url.replace("//", "//user:passw0rd@") + f"/scene.tif?{signature}"
    events: list[object] = []
    caplog.set_level(logging.DEBUG)
    out = tmp_path / "out"
    result = detect(link, rgb_bundle, out, unit=(2, 3), on_event=events.append)
    assert result.exit_code == 0 and pixels_of(out) == local_tables
    # A new signature is the same scene; an expired link is reported.
    server.keys["/scene.tif"] = signature + "2"
    assert detect(link + "2", rgb_bundle, out, on_event=events.append, unit=(2, 3)).scenes[0].status == "skipped"
    late = detect(link, rgb_bundle, out, on_event=events.append)
    assert late.exit_code == 2 and "may have expired" in late.failures[0].message
    server.keys["/scene.tif"] = signature
    expired: list[bool] = []

    def expire(request: Request) -> Fault | None:
        """From the first request for pixels on."""
        if expired or (request.span and request.span[0] > 20_000):
            expired.append(True)
            return Fault(status=403)
        return None

    server.fault = expire
    assert detect(link, rgb_bundle, out, on_event=events.append, overwrite=True).exit_code == 3
    assert any(isinstance(e, Failed) for e in events) and any(isinstance(e, SceneFinished) for e in events)
    written = b"".join((out / name).read_bytes() for name in files(out))
    assert b"scene.tif" in written
    printed = capfd.readouterr()
    texts = [written.decode("latin-1"), caplog.text, printed.out, printed.err, repr(events), repr(result), repr(late)]
    for text in texts:
        assert not any(secret in text for secret in SECRETS)


def test_the_command_line_keeps_secrets_and_reads_lists(scene, serve, rgb_bundle, tmp_path) -> None:
    server = serve(scene.parent, keys={"/scene.tif": SIGNATURE})
    lines = f"# scenes\n\n{server.url}/scene.tif?{SIGNATURE}\n{server.url}/gone.tif?{SIGNATURE}\n"
    flags = [f"--{name}={value}" for name, value in (PLAIN | {"engine": "serial"}).items()]
    program = str(Path(sys.executable).with_name("geosod"))
    done = subprocess.run(
        [program, "detect", "-", "-m", str(rgb_bundle), "-o", str(tmp_path / "out"), "--json", "-v", *flags],
        input=lines, text=True, capture_output=True, env=os.environ, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert '"done"' in done.stdout and "gone.tif" in done.stderr and "is not there" in done.stderr
    assert not any(secret in done.stdout + done.stderr for secret in SECRETS)


def test_a_small_area_costs_few_bytes(serve, rgb_bundle, tmp_path) -> None:
    draft = write_tif(tmp_path / "draft.tif", noise(3, 4096, 4096), block=512)
    site = tmp_path / "site"
    site.mkdir()
    rasterio.shutil.copy(draft, site / "large.tif", driver="COG", blocksize=256, compress="DEFLATE")
    spot = geopandas.GeoSeries([shapely.box(501_000, 5_799_000, 501_050, 5_799_050)], crs=32631)
    spot.to_file(tmp_path / "spot.gpkg")
    server = serve(site)
    result = detect(f"{server.url}/large.tif", rgb_bundle, tmp_path / "out", aoi=tmp_path / "spot.gpkg")
    assert result.exit_code == 0 and result.scenes[0].counts.raw > 0
    assert 0 < server.sent < 0.05 * (site / "large.tif").stat().st_size
    assert len(server.requests) < 20


def test_blocks_of_a_strip_come_in_one_request(scene, serve, rgb_bundle, tmp_path) -> None:
    server = serve(scene.parent)
    result = detect(f"{server.url}/scene.tif", rgb_bundle, tmp_path, unit=(0, 0))
    assert result.exit_code == 0
    # 6 rows of blocks with 8 blocks each.
    assert len(server.data()) <= 6 + 2, [r.span for r in server.requests]


def test_names_with_spaces_and_special_characters(scene, serve, rgb_bundle, local_tables, tmp_path) -> None:
    odd = scene.parent / "a scene (50%) #1 ä+b.tif"
    scene.rename(odd)
    server = serve(scene.parent)
    escaped = "a%20scene%20(50%25)%20%231%20%C3%A4+b.tif"
    result = detect(f"{server.url}/{escaped}", rgb_bundle, tmp_path / "a", unit=(2, 3))
    assert result.exit_code == 0 and result.scenes[0].scene_id.startswith("a_scene_50_")
    assert list(pixels_of(tmp_path / "a").values()) == list(local_tables.values())
    # A blank alone may be written as it is.
    odd.rename(scene.parent / "a scene.tif")
    assert detect(f"{server.url}/a scene.tif", rgb_bundle, tmp_path / "b").exit_code == 0


def test_passwords_come_from_netrc(scene, serve, rgb_bundle, tmp_path, monkeypatch) -> None:
    server = serve(scene.parent)
    server.fault = lambda r: None if r.headers.get("authorization", "").startswith("Basic ") else Fault(status=401)
    refused = detect(f"{server.url}/scene.tif", rgb_bundle, tmp_path / "a")
    assert refused.exit_code == 2 and ".netrc" in refused.failures[0].message
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login user password passw0rd\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert detect(f"{server.url}/scene.tif", rgb_bundle, tmp_path / "b").exit_code == 0
