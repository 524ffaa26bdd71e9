"""Which files local and remote VRTs may refer to."""

from __future__ import annotations

import shutil
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest
import rasterio

from geosod.errors import SceneError
from geosod.scene import SceneRef
from geosod.scenes.open import open_scene, opened
from geosod.scenes.sources import find_scenes
from geosod.storage.files import MAX_DOCUMENT
from geosod.storage.sandbox import check_raster, gdal_source
from tests.rasters import noise, write_tif
from tests.remote.server import Fault, Server, serving

SIDE = 64


def band(name: str, *, relative: int = 0, number: int = 1, extra: str = "") -> str:
    source = f'<SourceFilename relativeToVRT="{relative}">{name}</SourceFilename><SourceBand>{number}</SourceBand>'
    return (
        f'<VRTRasterBand dataType="Byte" band="{number}">{extra}<SimpleSource>{source}</SimpleSource></VRTRasterBand>'
    )


def vrt(*bands: str, head: str = "") -> str:
    return f'<VRTDataset rasterXSize="{SIDE}" rasterYSize="{SIDE}">{head}{"".join(bands)}</VRTDataset>'


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    write_tif(folder / "a.tif", noise(3, SIDE, SIDE))
    return folder


@pytest.fixture
def server(site: Path):  # type: ignore[no-untyped-def]
    with serving(site) as state:
        yield state


def pixels(uri: str) -> np.ndarray:
    (ref,), failures = find_scenes([uri])
    assert not failures, failures
    with opened(ref) as dataset:
        return np.asarray(dataset.read())


@pytest.mark.parametrize(
    "name",
    [
        "/vsizip/evil.zip/x.tif",
        "/vsimem/x.tif",
        "/vsistdin/",
        "/vsicurl?url=http%3A%2F%2F127.0.0.1%3A9%2Fx.tif",
        "/vsicurl_streaming/http://127.0.0.1:9/x.tif",
        "/vsigs/bucket/x.tif",
        "&lt;GDAL_WMS&gt;&lt;/GDAL_WMS&gt;",
        "<![CDATA[<GDAL_WMS></GDAL_WMS>]]>",
        "<!-- --> /vsizip/evil.zip/x.tif",
        "<b>/vsizip/evil.zip/x.tif</b>",
        "WMS:example",
        "vrt:///etc/passwd",
        "file:///etc/passwd",
        "gs://bucket/x.tif",
        "",
    ],
)
@pytest.mark.parametrize("depth", [0, 1])
def test_a_local_vrt_refers_to_no_other_file_system(name: str, depth: int, tmp_path: Path) -> None:
    (tmp_path / "inner.vrt").write_text(vrt(band(name)))
    path = tmp_path / "outer.vrt"
    path.write_text(vrt(band("inner.vrt" if depth else name, relative=depth)))
    with pytest.raises(SceneError):
        open_scene(SceneRef(str(path), "x"))


@pytest.mark.parametrize(
    "text",
    [
        '<VRTDataset rasterXSize="64" rasterYSize="64"><VRTRasterBand dataType="Byte" band="1"><SimpleSource '
        'SourceFilename="/vsizip/x.zip/a.tif"><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>',
        '<VRTDataset rasterXSize="64" rasterYSize="64"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        "<sourcefilename>/vsizip/x.zip/a.tif</sourcefilename></SimpleSource></VRTRasterBand></VRTDataset>",
        '<!DOCTYPE x [<!ENTITY a "/vsizip/x.zip">]><VRTDataset rasterXSize="64" rasterYSize="64">'
        "<SourceFilename>&a;</SourceFilename></VRTDataset>",
        '<VRTDataset rasterXSize="64" rasterYSize="64">' + band('x" >/vsizip/x.zip/a.tif') + "</VRTDataset",
    ],
)
def test_the_check_cannot_be_bypassed(text: str, tmp_path: Path) -> None:
    """GDAL accepts attributes for elements, ignores case, and is not strict."""
    (tmp_path / "x.vrt").write_text(text)
    with pytest.raises(SceneError):
        gdal_source(str(tmp_path / "x.vrt"))


def test_a_local_vrt_may_refer_to_local_and_remote_files(site: Path, server: Server, tmp_path: Path) -> None:
    shutil.copy(site / "a.tif", tmp_path / "b.tif")
    (site / "there.vrt").write_text(vrt(band("a.tif", relative=1)))
    signed = escape(f"{server.url}/a.tif?sig=1&x=2")
    names = [("b.tif", 1), (f"{server.url}/a.tif", 0), (f"/vsicurl/{signed}", 0), (f"{server.url}/there.vrt", 0)]
    (tmp_path / "mixed.vrt").write_text(vrt(*(band(n, relative=r, number=1) for n, r in names)))
    (tmp_path / "outer.vrt").write_text(vrt(band("mixed.vrt", relative=1)))
    with rasterio.open(site / "a.tif") as dataset:
        expected = dataset.read(1)
    found = pixels(str(tmp_path / "mixed.vrt"))
    assert len(found) == 4 and all((one == expected).all() for one in found)
    assert (pixels(str(tmp_path / "outer.vrt"))[0] == expected).all()
    assert gdal_source(str(tmp_path / "b.tif")) == str(tmp_path / "b.tif")


def test_a_remote_vrt_reads_files_of_its_host(site: Path, server: Server) -> None:
    (site / "sub").mkdir()
    (site / "inner.vrt").write_text(vrt(band("a.tif", relative=1, number=2)))
    place = "<SRS>EPSG:32631</SRS><GeoTransform>500000, 0.5, 0, 5800000, 0, -0.5</GeoTransform>"
    (site / "sub/x.vrt").write_text(
        vrt(
            band("../a.tif", relative=1),
            band(f"{server.url}/a.tif", number=2, extra="<NoDataValue>0</NoDataValue>"),
            band("../inner.vrt", relative=1),
            head=place,
        )
    )
    with rasterio.open(site / "a.tif") as dataset:
        expected = dataset.read([1, 2, 2])
    assert (pixels(f"{server.url}/sub/x.vrt")[:2] == expected[:2]).all()
    (ref,), _ = find_scenes([f"{server.url}/sub/x.vrt"])
    with opened(ref) as dataset:
        assert dataset.crs.to_epsg() == 32631


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "file:///etc/passwd",
        "file:/etc/passwd",
        "/vsicurl/http://127.0.0.1:9/x.tif",
        "http://127.0.0.1:9/x.tif",
        "//127.0.0.1:9/x.tif",
        "https://{host}/x.tif",
        "http://{host}@evil.org/x.tif",
        "s3://bucket/x.tif",
        "/vsis3/bucket/x.tif",
        "/vsizip//vsicurl/http://{host}/x.zip/a.tif",
        "&lt;VRTDataset/&gt;",
        "evil.vrt",
        "disguised.tif",
        "page.tif",
    ],
)
@pytest.mark.parametrize("relative", [0, 1])
def test_a_remote_vrt_refers_to_its_own_host_only(
    name: str, relative: int, site: Path, server: Server, tmp_path: Path
) -> None:
    secret = write_tif(tmp_path / "secret.tif", noise(1, SIDE, SIDE))
    (site / "evil.vrt").write_text(vrt(band(str(secret))))
    (site / "disguised.tif").write_text(vrt(band("/vsicurl/http://127.0.0.1:9/x.tif")))
    (site / "page.tif").write_text("<html></html>")
    host = server.url.removeprefix("http://")
    (site / "x.vrt").write_text(vrt(band(name.replace("{host}", host), relative=relative)))
    with pytest.raises(SceneError):
        pixels(f"{server.url}/x.vrt")


def test_a_remote_vrt_refers_to_no_other_server(site: Path, server: Server) -> None:
    """The other server exists and would respond."""
    with serving(site) as other:
        for name in (f"{other.url}/a.tif", f"/vsicurl/{other.url}/a.tif", other.url.removeprefix("http:") + "/a.tif"):
            (site / "x.vrt").write_text(vrt(band(name)))
            with pytest.raises(SceneError, match="own host or bucket"):
                pixels(f"{server.url}/x.vrt")
        assert not other.requests


@pytest.mark.parametrize(
    "head",
    [
        '<VRTRasterBand dataType="Byte" band="1" subClass="VRTDerivedRasterBand"><PixelFunctionType>x'
        "</PixelFunctionType><PixelFunctionLanguage>Python</PixelFunctionLanguage></VRTRasterBand>",
        '<VRTRasterBand dataType="Byte" band="1" subClass="VRTRawRasterBand"><SourceFilename>a.tif</SourceFilename>'
        "</VRTRasterBand>",
        '<Metadata domain="GEOLOCATION"><MDI key="X_DATASET">/etc/passwd</MDI></Metadata>',
        '<Metadata domain="xml:x"><x/></Metadata>',
        "<GDALWarpOptions><SourceDataset>a.tif</SourceDataset></GDALWarpOptions>",
        "<OverviewFile>/etc/passwd</OverviewFile>",
        "<Group/>",
        "<Unknown/>",
    ],
)
def test_a_remote_vrt_contains_plain_bands_only(head: str, site: Path, server: Server) -> None:
    (site / "x.vrt").write_text(vrt(band("a.tif", relative=1), head=head))
    with pytest.raises(SceneError, match="not allowed in a remote VRT"):
        pixels(f"{server.url}/x.vrt")


def test_vrts_that_are_too_deep_or_large_are_refused(site: Path, server: Server) -> None:
    (site / "loop.vrt").write_text(vrt(band("loop.vrt", relative=1)))
    with pytest.raises(SceneError, match="nested over 8 deep"):
        pixels(f"{server.url}/loop.vrt")
    with pytest.raises(SceneError, match="nested over 8 deep"):
        gdal_source(str(site / "loop.vrt"))
    (site / "large.vrt").write_bytes(b"<VRTDataset>" + b" " * (MAX_DOCUMENT + 10))
    with pytest.raises(SceneError, match="over 16 MiB"):
        pixels(f"{server.url}/large.vrt")
    server.sent = 0
    server.fault = lambda r: Fault(endless=True) if r.span is None else None
    (site / "x.vrt").write_text(vrt(band("a.tif", relative=1)))
    with pytest.raises(SceneError, match="over 16 MiB"):
        pixels(f"{server.url}/x.vrt")
    assert server.sent < 4 * MAX_DOCUMENT


def test_redirects_of_a_vrt_to_another_host_are_refused(site: Path, server: Server) -> None:
    (site / "x.vrt").write_text(vrt(band("a.tif", relative=1)))
    with serving(site) as other:
        other.fault = lambda r: Fault(status=302, location=f"{server.url}/x.vrt") if r.span is None else None
        with pytest.raises(SceneError, match="redirected to another host"):
            pixels(f"{other.url}/x.vrt")
        other.fault = lambda r: Fault(status=302, location="/x.vrt") if "y.vrt" in r.path else None
        assert pixels(f"{other.url}/y.vrt").any(), "on its own host it is"


@pytest.mark.parametrize("text", [vrt(band("/etc/hostname")), "<GDAL_WMS></GDAL_WMS>", "WMS:x", "<html></html>"])
def test_a_vrt_under_the_name_of_a_geotiff_is_not_opened(text: str, site: Path, server: Server) -> None:
    (site / "disguised.tif").write_text(text)
    with pytest.raises(SceneError, match="cannot be opened as a raster"):
        pixels(f"{server.url}/disguised.tif")
    with pytest.raises(SceneError, match="is no GeoTIFF"):
        check_raster(f"{server.url}/disguised.tif")
    # In a view GDAL would open it with any driver, so it is checked first.
    (ref,), _ = find_scenes([f"{server.url}/disguised.tif"])
    view = vrt(band(f"/vsicurl/{ref.uri}"))
    with pytest.raises(SceneError, match="is no GeoTIFF"), opened(ref, view=view):
        pass


def test_remote_sidecars_are_not_requested(site: Path, server: Server) -> None:
    for name in ("a.tif.aux.xml", "a.tif.ovr", "a.tif.msk", "a.tfw", "a.aux"):
        (site / name).write_text("<PAMDataset/>")
    assert pixels(f"{server.url}/a.tif").any()
    assert {r.path for r in server.requests} == {"/a.tif"}
