"""Scenes in buckets, through a real S3 API: credentials, listings, keys with special characters."""

from __future__ import annotations

import builtins
import json
import logging
from typing import Any

import pytest
import ray

from geosod.errors import ConfigError
from geosod.scenes.sources import find_scenes
from geosod.storage.files import version
from geosod.storage.gdal_env import environment, settings
from geosod.storage.s3 import access
from tests.remote.conftest import KEY, SECRET, TOKEN, pixels_of
from tests.running.helpers import RAY, detect, files

UNIT = (2, 3)


@pytest.mark.parametrize("key", ["scene.tif", "a dir/ä b+c (1) #2%20?x=1.tif"])
def test_keys_with_special_characters_give_the_same_result_as_the_file(
    key, s3, site, rgb_bundle, local_tables, tmp_path
) -> None:
    s3.upload_file(str(site / "scene.tif"), "images", key)
    result = detect(f"s3://images/{key}", rgb_bundle, tmp_path, unit=UNIT)
    assert result.exit_code == 0, result.failures
    assert list(pixels_of(tmp_path).values()) == list(local_tables.values())
    assert detect(f"s3://images/{key}", rgb_bundle, tmp_path, unit=UNIT).scenes[0].status == "skipped"


@pytest.mark.slow
def test_ray_workers_find_their_own_credentials(s3, site, rgb_bundle, local_tables, tmp_path) -> None:
    s3.upload_file(str(site / "scene.tif"), "images", "scene.tif")
    # Workers have the environment that Ray was started in; nothing of it is shipped with the work.
    ray.init(**RAY)
    try:
        result = detect("/vsis3/images/scene.tif", rgb_bundle, tmp_path, unit=UNIT, engine="ray")
    finally:
        ray.shutdown()
    assert result.exit_code == 0 and pixels_of(tmp_path) == local_tables


def test_a_prefix_is_listed_with_versions(s3, site, rgb_bundle, tmp_path, monkeypatch) -> None:
    content = (site / "scene.tif").read_bytes()
    for name in ("2024/b.tif", "2024/a/c.TIF", "2024/notes.txt", "2023/d.tif"):
        s3.put_object(Bucket="images", Key=name, Body=content)
    monkeypatch.setattr("geosod.scenes.sources.version", lambda uri: pytest.fail(f"asked for {uri} by itself"))
    refs, failures = find_scenes(["s3://images/2024/"])
    assert [ref.uri for ref in refs] == ["s3://images/2024/a/c.TIF", "s3://images/2024/b.tif"] and not failures
    assert {ref.version for ref in refs} == {version(refs[0].uri)}
    refs, failures = find_scenes(["s3://images/none/", "s3://nobucket/"])
    assert not refs and [f.message.split(": ")[0] for f in failures] == ["s3://images/none/", "s3://nobucket/"]


@pytest.mark.slow
def test_a_listing_of_several_pages_is_read_to_its_end(s3) -> None:
    for i in range(1100):
        s3.put_object(Bucket="images", Key=f"many/{i:04}.tif", Body=b"x")
    refs, failures = find_scenes(["s3://images/many/"])
    assert len({ref.id for ref in refs}) == 1100 and not failures


def test_a_product_below_a_prefix_is_one_scene(s3, site) -> None:
    for band in ("B04", "B03", "B02"):
        s3.upload_file(str(site / "scene.tif"), "images", f"X.SAFE/GRANULE/IMG/T31_{band}.tif")
    bands = {"red": "*_B04.tif", "green": "T31_B03.tif", "blue": "IMG/*B02.tif"}
    (ref,), failures = find_scenes(["s3://images/X.SAFE/"], bands=bands)
    assert not failures and ref.id == "X" and [f.name for f in ref.files] == ["red", "green", "blue"]
    assert ref.files[0].uri == "s3://images/X.SAFE/GRANULE/IMG/T31_B04.tif" and ref.version


def test_a_stac_item_in_a_bucket_refers_to_its_own_bucket_only(s3, site, rgb_bundle, local_tables, tmp_path) -> None:
    s3.upload_file(str(site / "scene.tif"), "images", "data/scene.tif")
    asset: dict[str, Any] = {"href": "../data/scene.tif", "type": "image/tiff", "roles": ["data"]}
    item = {"type": "Feature", "id": "scene", "properties": {"datetime": None}, "assets": {"image": asset}}
    s3.put_object(Bucket="images", Key="items/item.json", Body=json.dumps(item))
    result = detect("s3://images/items/item.json", rgb_bundle, tmp_path, unit=UNIT)
    assert result.exit_code == 0 and pixels_of(tmp_path) == local_tables
    for href in ("s3://other/scene.tif", "https://h.org/scene.tif", "/vsis3/other/x.tif", "file:///etc/passwd"):
        asset["href"] = href
        s3.put_object(Bucket="images", Key="items/item.json", Body=json.dumps(item))
        refs, (failure,) = find_scenes(["s3://images/items/item.json"])
        assert not refs and "own host or bucket" in failure.message


def test_refusals_are_reported_without_secrets(s3, rgb_bundle, tmp_path, caplog, capfd) -> None:
    caplog.set_level(logging.DEBUG)
    result = detect(["s3://images/none.tif", "s3://nobucket/x.tif"], rgb_bundle, tmp_path / "out")
    assert result.exit_code == 2 and all("is not there" in f.message for f in result.failures)
    printed = capfd.readouterr()
    written = b"".join((tmp_path / "out" / name).read_bytes() for name in files(tmp_path / "out")).decode("latin-1")
    for text in (written, repr(result), printed.out, printed.err):
        assert SECRET not in text and TOKEN not in text and KEY not in text
    assert SECRET not in caplog.text


def test_secrets_are_written_nowhere(s3, site, rgb_bundle, tmp_path, caplog) -> None:
    caplog.set_level(logging.DEBUG, logger="rasterio")
    caplog.set_level(logging.DEBUG, logger="geosod")
    s3.upload_file(str(site / "scene.tif"), "images", "scene.tif")
    assert detect("s3://images/scene.tif", rgb_bundle, tmp_path).exit_code == 0
    written = b"".join((tmp_path / name).read_bytes() for name in files(tmp_path)).decode("latin-1")
    assert "s3://images/scene.tif" in written
    for secret in (SECRET, TOKEN, KEY):
        assert secret not in written and secret not in caplog.text


def test_missing_credentials_are_reported(s3, site, rgb_bundle, tmp_path, monkeypatch) -> None:
    s3.upload_file(str(site / "scene.tif"), "images", "scene.tif")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    result = detect("s3://images/scene.tif", rgb_bundle, tmp_path / "out")
    assert result.exit_code == 2 and "credentials" in result.failures[0].message.lower()
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "YES")
    assert access().gdal_options()["AWS_NO_SIGN_REQUEST"] == "YES"


def test_profiles_endpoints_and_payers_come_from_the_usual_variables(aws, monkeypatch, tmp_path) -> None:

    (tmp_path / "credentials").write_text("[work]\naws_access_key_id=A\naws_secret_access_key=B\n")
    (tmp_path / "config").write_text("[profile work]\nregion=eu-central-1\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "work")
    options = access().gdal_options()
    assert options["AWS_ACCESS_KEY_ID"] == "A" and options["AWS_REGION"] == "eu-central-1"
    assert "AWS_S3_ENDPOINT" not in options and "AWS_VIRTUAL_HOSTING" not in options
    for name, value in (("AWS_S3_ENDPOINT", "localhost:9000"), ("AWS_ENDPOINT_URL_S3", "http://localhost:9000")):
        monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
        options = access().gdal_options()
        assert options["AWS_S3_ENDPOINT"] == "localhost:9000" and options["AWS_VIRTUAL_HOSTING"] == "FALSE"
        assert options["AWS_HTTPS"] == ("YES" if name == "AWS_S3_ENDPOINT" else "NO")
        assert options["AWS_REQUEST_PAYER"] == "requester"
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_PROFILE", "no-such")
    with pytest.raises(ConfigError, match="no-such"):
        access()


def test_expired_credentials_are_renewed(aws, monkeypatch) -> None:
    """Every opening uses the current credentials."""

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "first")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    reach = access()
    assert access() is reach, "made once"
    with environment(["s3://b/k.tif"], {}):
        import rasterio.env

        assert rasterio.env.getenv()["AWS_ACCESS_KEY_ID"] == "first"
    from botocore.credentials import Credentials

    monkeypatch.setattr(reach.session, "get_credentials", lambda: Credentials("second", "y", "z"))
    with environment(["/vsis3/b/k.tif"], {}):
        assert rasterio.env.getenv()["AWS_ACCESS_KEY_ID"] == "second"
    with environment(["https://h/k.tif"], {}):
        assert "AWS_ACCESS_KEY_ID" not in rasterio.env.getenv(), "buckets' keys go to buckets alone"


def test_without_boto3_the_extra_is_named(aws, monkeypatch) -> None:
    from geosod.storage import s3 as module

    whole = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".", maxsplit=1)[0] == "boto3":
            raise ImportError(name)
        return whole(name, *args, **kwargs)

    module._access.cache_clear()
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match=r"pip install 'geosod\[s3\]'"), environment(["s3://b/k.tif"], {}):
        pass
    refs, (failure,) = find_scenes(["s3://b/k.tif"])
    assert not refs and "geosod[s3]" in failure.message
    assert settings(["https://h/a.tif"]) and "GDAL_HTTP_MAX_RETRY" not in settings(["/data/a.tif"])
