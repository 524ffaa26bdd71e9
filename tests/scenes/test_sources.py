"""Scenes from lists, products, mappings and STAC documents, and the addresses of files."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geosod.errors import ConfigError
from geosod.scene import BandFile, SceneRef
from geosod.scenes.sources import failed_id, find_scenes, safe_id, with_unique_ids
from geosod.storage.uris import gdal_name, normalized, origin, resolved, stem, suffix


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def write(path: Path, document: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return str(path)


def item(assets: dict[str, Any], **fields: Any) -> dict[str, Any]:
    properties = fields.pop("properties", {"datetime": "2024-05-01T10:00:00Z"})
    return {"type": "Feature", "id": "S2A", "properties": properties, "assets": assets} | fields


def one(name: str, **settings: Any) -> SceneRef:
    refs, failures = find_scenes([name], **settings)
    assert not failures, failures
    (ref,) = refs
    return ref


def refusal(name: Any, **settings: Any) -> str:
    refs, failures = find_scenes([name], **settings)
    assert not refs
    (failure,) = failures
    return failure.message


def test_paths_folders_and_globs_name_each_file_once(tmp_path: Path) -> None:
    for name in ("a.tif", "b.TIF", "sub/c.vrt", "notes.txt"):
        touch(tmp_path / name)
    found, failures = find_scenes([str(tmp_path), str(tmp_path / "*.tif"), str(tmp_path / "sub/../a.tif")])
    assert [ref.id for ref in found] == ["a", "b", "c"] and not failures
    odd = ["~nosuchuser/x.tif", "x" * 300, "/vsizip/x.zip/a.tif", "ftp://h/x.tif", "https:///x.tif", "WMS:x"]
    found, failures = find_scenes([str(tmp_path / "notes.txt"), str(tmp_path / "none*.tif"), *odd])
    assert [ref.id for ref in found] == ["notes"]
    assert [f.stage for f in failures] == ["open"] * 7
    assert "no such file" in failures[0].message and "cannot be read" in failures[3].message
    with pytest.raises(ConfigError, match="no scene given"):
        find_scenes([])


def test_lists_of_inputs(tmp_path: Path) -> None:
    a, b = touch(tmp_path / "a.tif"), touch(tmp_path / "b.tif")
    mapping = {"id": "../two", "datetime": "2024-01-01T02:00+02:00", "bands": {"red": str(a), "nir": [str(b), 4]}}
    lines = [f"  {a}  \n", "# a comment\n", "\n", json.dumps(mapping) + "\n", "{broken\n", f"{tmp_path}/none.tif\n"]
    refs, failures = find_scenes(["-"], lines=lines)
    first, second = refs
    assert (first.id, second.id) == ("a", "_two") and second.datetime == dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    assert [(f.name, f.uri, f.band) for f in second.files] == [("red", str(a), 1), ("nir", str(b), 4)]
    assert second.version and all(f.version for f in second.files)
    assert ["line 5" in f.message or "no such file" in f.message for f in failures] == [True, True]
    (tmp_path / "list.txt").write_text("".join(lines))
    assert find_scenes([f"@{tmp_path}/list.txt"])[0] == refs
    assert find_scenes([mapping])[0][0].files == second.files
    assert "list cannot be read" in refusal(f"@{tmp_path}/none.txt")


@pytest.mark.parametrize(
    "mapping",
    [
        {"bands": {}},
        {"id": "x"},
        {"bands": {"red": 3}},
        {"bands": {"red": ["a.tif", 0]}},
        {"bands": {"red": "none.tif"}},
        {"bands": {"red": "/vsizip/x.zip/a.tif"}},
        {"bands": {"red": "https://h/a.tif"}, "date": "2024"},
        {"bands": {"red": "https://h/a.tif"}, "datetime": "yesterday"},
    ],
)
def test_malformed_mappings_are_reported(mapping: dict[str, Any]) -> None:
    assert refusal(mapping)


def test_a_product_folder_is_one_scene_of_the_files_its_patterns_match(tmp_path: Path) -> None:
    safe = tmp_path / "S2A_X.SAFE"
    for name in ("B04.jp2", "B08.jp2"):
        touch(safe / "GRANULE" / "L1C" / "IMG_DATA" / f"T31_{name}")
    touch(safe / "MTD.xml")
    bands = {"red": "*_B04.jp2", "nir": "T31_B08.jp2"}
    ref = one(str(safe), bands=bands)
    assert ref.id == "S2A_X" and ref.uri == str(safe)
    assert [(f.name, Path(f.uri).name, f.aliases) for f in ref.files] == [
        ("red", "T31_B04.jp2", ("*_B04.jp2",)),
        ("nir", "T31_B08.jp2", ("T31_B08.jp2",)),
    ]
    assert one(str(tmp_path / "*.SAFE"), bands=bands) == ref
    assert "matches 0 files (none)" in refusal(str(safe), bands={"red": "*_B05.jp2"})
    assert "matches 2 files" in refusal(str(safe), bands={"red": "*.jp2"})
    names = find_scenes([str(safe)], bands={"red": "B04"})[0]
    assert len(names) == 2, "names of bands are no patterns"
    before = ref.version
    touch(safe / "GRANULE/L1C/IMG_DATA/T31_B04.jp2").write_bytes(b"other")
    assert one(str(safe), bands=bands).version != before


def test_the_asset_of_an_item_is_chosen_by_name_role_or_as_the_only_one(tmp_path: Path) -> None:
    for name in ("a.tif", "b.tif", "c.tif"):
        touch(tmp_path / name)
    tif = "image/tiff; application=geotiff; profile=cloud-optimized"
    assets: dict[str, Any] = {
        "visual": {"href": "./a.tif", "type": tif, "roles": ["visual"]},
        "index": {"href": "b.tif", "type": tif, "roles": ["index"]},
        "thumbnail": {"href": "c.tif", "type": "image/png", "roles": ["thumbnail"]},
        "metadata": {"href": "m.xml", "type": "application/xml", "roles": ["metadata"]},
    }
    path = write(tmp_path / "item.json", item(assets))
    ref = one(path)
    assert (ref.uri, ref.id, ref.files) == (str(tmp_path / "a.tif"), "S2A", ())
    assert ref.datetime == dt.datetime(2024, 5, 1, 10, tzinfo=dt.UTC)
    assert ref.version == one(str(tmp_path / "a.tif")).version
    assert one(path, asset="index").uri == one(path, asset="thumbnail").uri.replace("c.tif", "b.tif")
    assert one(path, asset="visual").uri == ref.uri
    assert "no asset named or with the role 'x'; it has visual (visual)" in refusal(path, asset="x")
    later = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    assert one(path, datetime=later).datetime == later
    spans = {"datetime": None, "start_datetime": "2023-01-01T00:00:00Z", "end_datetime": "2023-02-01T00:00:00Z"}
    assert one(write(tmp_path / "span.json", item(assets, properties=spans))).datetime == dt.datetime(
        2023, 1, 1, tzinfo=dt.UTC
    )
    assert "no raster asset" in refusal(write(tmp_path / "none.json", item({"m": assets["metadata"]})))


def test_separate_assets_are_the_bands_of_one_scene(tmp_path: Path) -> None:
    """Band metadata of STAC 1.0 and 1.1; the same band in two files is one band."""
    for name in ("B04.tif", "B08.tif", "SCL.tif", "tci.tif", "B04.jp2"):
        touch(tmp_path / name)
    tif, data = "image/tiff", ["data", "reflectance"]
    old = {"eo:bands": [{"name": "B04", "common_name": "red"}], "raster:bands": [{"scale": 0.0001, "offset": -0.1}]}
    new = {"bands": [{"name": "B08", "eo:common_name": "nir"}], "raster:scale": 0.0001, "raster:offset": 0}
    three = [{"name": n, "common_name": n} for n in ("red", "green", "blue")]
    assets = {
        "red": {"href": "B04.tif", "type": tif, "roles": data} | old,
        "red-jp2": {"href": "B04.jp2", "type": "image/jp2", "roles": data} | old,
        "nir": {"href": "B08.tif", "type": tif, "roles": data} | new,
        "scl": {"href": "SCL.tif", "type": tif, "roles": ["data"]},
        "visual": {"href": "tci.tif", "type": tif, "roles": ["visual"], "eo:bands": three},
    }
    path = write(tmp_path / "item.json", item(assets))
    ref = one(path)
    assert ref.uri == path and [f.name for f in ref.files] == ["red", "nir", "scl"]
    red, nir, scl = (BandFile(f.name, f.uri, f.band, f.aliases, f.scale, f.offset) for f in ref.files)
    assert red == BandFile("red", str(tmp_path / "B04.tif"), 1, ("B04",), 0.0001, -0.1)
    assert nir == BandFile("nir", str(tmp_path / "B08.tif"), 1, ("B08",), 0.0001, 0.0)
    assert (scl.aliases, scl.scale, scl.offset) == ((), None, None)
    assert one(path, asset="visual").uri.endswith("tci.tif")
    scaled = one(path, asset="red")
    assert scaled.files[0].offset == -0.1, "the scale of an asset is not lost where it stands alone"


def test_collections_give_their_items(tmp_path: Path) -> None:
    for name in ("x/a.tif", "y/a.tif"):
        touch(tmp_path / name)
    alone = {"a": {"href": "a.tif", "type": "image/tiff"}}
    for folder in ("x", "y"):
        write(tmp_path / folder / "item.json", item(alone, id=f"of-{folder}"))
    links = [{"rel": "item", "href": f"./{name}/item.json"} for name in ("y", "x", "none")] + [
        {"rel": "self", "href": "https://h.org/collection.json"}
    ]
    path = write(tmp_path / "collection.json", {"type": "Collection", "id": "c", "links": links})
    refs, failures = find_scenes([path])
    assert [ref.id for ref in refs] == ["of-y", "of-x"] and len(failures) == 1
    features = [item({"a": {"href": f"{name}/a.tif", "type": "image/tiff"}}, id="twin") for name in ("x", "y")]
    page = {"type": "FeatureCollection", "features": features, "links": [{"rel": "next", "href": "?page=2"}]}
    refs, failures = find_scenes([write(tmp_path / "items.json", page)])
    assert [Path(ref.uri).parent.name for ref in refs] == ["x", "y"] and "several pages" in failures[0].message
    own = with_unique_ids(refs, {})
    assert len({ref.id for ref in own}) == 2 and all(ref.id.startswith("twin-") for ref in own)
    assert "links to no item" in refusal(write(tmp_path / "empty.json", {"type": "Collection", "links": []}))
    assert "no `type`" in refusal(write(tmp_path / "other.json", {"a": 1}))
    assert "of type 'Topology'" in refusal(write(tmp_path / "topology.json", {"type": "Topology"}))
    assert "is not JSON" in refusal(str(touch(tmp_path / "broken.json")))


@pytest.mark.parametrize(
    "href",
    [
        "/etc/passwd",
        "../../../etc/passwd",
        "/vsizip/x.zip/a.tif",
        "/vsicurl?url=http://h/x.tif",
        "file://host/share/a.tif",
        "file:///etc/passwd",
        "ftp://h/a.tif",
        "GTIFF_DIR:1:a.tif",
        "WMS:x.tif",
        "PG:dbname=x.tif",
        "https://",
    ],
)
def test_a_local_item_refers_to_rasters_and_addresses_only(href: str, tmp_path: Path) -> None:
    assets = {"a": {"href": href, "type": "image/tiff"}}
    assert refusal(write(tmp_path / "item.json", item(assets)))


def test_a_local_item_may_refer_to_files_outside_its_folder(tmp_path: Path) -> None:
    outside = touch(tmp_path / "data" / "a b.tif")
    for href in ("../data/a b.tif", "../data/a%20b.tif", str(outside), outside.as_uri()):
        ref = one(write(tmp_path / "items" / "item.json", item({"a": {"href": href, "type": "image/tiff"}})))
        assert Path(ref.uri).resolve() == outside


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8),
       lambda c: st.lists(c, max_size=3) | st.dictionaries(
           st.sampled_from(["type", "assets", "href", "roles", "id", "properties", "links", "eo:bands", "bands"]), c),
       max_leaves=12), st.sampled_from(["Feature", "FeatureCollection", "Collection"]))  # fmt: skip
def test_documents_of_any_shape_end_in_scenes_or_failures(tmp_path_factory: Any, inside: Any, kind: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps({"type": kind, "assets": inside, "features": [inside], "links": inside} | (
        inside if isinstance(inside, dict) else {}) | {"type": kind}))  # fmt: skip
    refs, failures = find_scenes([str(path)])
    assert refs or failures
    assert all("\n" not in f.message for f in failures)


@given(st.text(max_size=300))
def test_identifiers_are_safe_file_names(text: str) -> None:
    name = safe_id(text)
    assert 0 < len(name) <= 120 and name[0] not in ".-"
    assert set(name) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")


def test_identifiers_do_not_depend_on_signatures() -> None:
    refs = [SceneRef(f"https://h/a.tif?sig={i}", "a") for i in range(2)]
    assert refs[0].hashed().id == refs[1].hashed().id
    assert failed_id(refs[0].uri) == failed_id("https://h/a.tif") != failed_id("https://h/b.tif")


@pytest.mark.parametrize(
    ("uri", "name", "ending", "base"),
    [
        ("s3://b/k/x y.TIF", "/vsis3/b/k/x y.TIF", ".tif", "x y"),
        ("s3://b/k?a#b.tif", "/vsis3/b/k?a#b.tif", ".tif", "k?a#b"),
        ("https://h/a.tif?sig=a%2Fb&c=d#e", "/vsicurl/https://h/a.tif?sig=a%2Fb&c=d", ".tif", "a"),
        ("https://h/a b%20c.tif", "/vsicurl/https://h/a%20b%20c.tif", ".tif", "a b c"),
        ("http://h:8080/ä.tif", "/vsicurl/http://h:8080/%C3%A4.tif", ".tif", "ä"),
        ("https://h/get?file=x", "/vsicurl/https://h/get?file=x", "", "get"),
        ("/data/a b.tif", "/data/a b.tif", ".tif", "a b"),
    ],
)
def test_gdal_names(uri: str, name: str, ending: str, base: str) -> None:
    assert gdal_name(uri) == name and suffix(uri) == ending and stem(uri) == base
    if not uri.startswith("/") and "#" not in uri:
        assert gdal_name(normalized(name)) == name


@pytest.mark.parametrize(
    ("base", "name", "expected"),
    [
        ("https://h/a/i.json", "b.tif", "https://h/a/b.tif"),
        ("https://h/a/i.json?sig=1", "../b.tif?sig=2", "https://h/b.tif?sig=2"),
        ("https://h/a/i.json", "//evil.org/b.tif", "https://evil.org/b.tif"),
        ("https://h/a/i.json", "/../../b.tif", "https://h/b.tif"),
        ("s3://b/a/i.json", "../../../c.tif", "s3://b/c.tif"),
        ("s3://b/a/i.json", "./x/c.tif", "s3://b/a/x/c.tif"),
        ("https://h/a/i.json", "s3://b/c.tif", "s3://b/c.tif"),
        ("/d/i.json", "x.tif", "/d/x.tif"),
    ],
)
def test_names_are_relative_to_their_document(base: str, name: str, expected: str) -> None:
    assert resolved(base, name) == expected


def test_origins_of_files() -> None:
    assert origin("https://H.org/x") == origin("https://h.org:443/y") != origin("http://h.org/x")
    assert origin("https://u:p@h.org/x") == origin("https://h.org/x") != origin("https://h.org:8443/x")
    assert origin("https://h.org@evil.org/x") == origin("https://evil.org/")
    assert origin("s3://a/x") != origin("s3://b/x") and origin("/x") == ("", "")
