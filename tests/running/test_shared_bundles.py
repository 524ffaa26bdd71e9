"""Bundles travel with a run: a node needs neither the folder that the user named nor a shared file system."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
import ray

from geosod.detectors.models import BundleModel
from geosod.errors import ModelError
from geosod.running.detect import make_job
from geosod.running.job import load_fitting
from geosod.running.ray_engine.shared_bundles import share_bundles, with_local_bundles
from tests.rasters import noise
from tests.running.helpers import PLAIN


@pytest.fixture
def job(cluster, rgb_bundle, tmp_path, monkeypatch) -> Any:
    monkeypatch.setenv("GEOSOD_CACHE", str(tmp_path / "cache"))
    shutil.copytree(rgb_bundle, tmp_path / "bundle")
    return make_job(tmp_path / "bundle", **PLAIN)


def folder_of(job: Any) -> Any:
    assert isinstance(job.model, BundleModel)
    return job.model.bundle.folder


def test_a_node_without_the_folder_makes_a_copy(job, tmp_path) -> None:
    shared, pixels = share_bundles(job), noise(3, 128, 128)
    assert folder_of(with_local_bundles(job, shared)) == tmp_path / "bundle" and not (tmp_path / "cache").exists()
    expected = load_fitting(job)[0].detect(pixels)
    shutil.rmtree(tmp_path / "bundle")
    there = with_local_bundles(job, shared)
    assert folder_of(there).parent == tmp_path / "cache/geosod/bundles"
    found = load_fitting(there)[0].detect(pixels)
    assert len(found) and (found.boxes == expected.boxes).all() and there.model.digest == job.model.digest
    weights = next(folder_of(there).glob("*.safetensors"))
    weights.write_bytes(b"damaged")
    assert folder_of(with_local_bundles(job, shared)) == weights.parent and weights.stat().st_size > 100
    assert not list(weights.parent.parent.glob(".*"))


def test_what_was_asked_of_a_model_travels_with_it(job) -> None:
    """A card in the folder knows nothing of it."""
    job = make_job("trees-naip-60cm", views=4, **PLAIN)
    assert with_local_bundles(job, share_bundles(job)).model.card.parameters["views"] == 4


def test_another_bundle_in_its_place_is_not_used(job, tmp_path) -> None:
    shared = share_bundles(job)
    card = tmp_path / "bundle/model.json"
    item = json.loads(card.read_text())
    item["properties"]["mlm:name"] = "another"
    card.write_text(json.dumps(item))
    assert folder_of(with_local_bundles(job, shared)) != tmp_path / "bundle"


def test_a_bundle_that_changes_before_the_run_is_refused(job, tmp_path) -> None:
    next((tmp_path / "bundle").glob("*.safetensors")).write_bytes(b"others")
    with pytest.raises(ModelError, match="sha256"):
        share_bundles(job)


@pytest.mark.slow
def test_workers_load_what_was_shared(job, tmp_path) -> None:
    @ray.remote(num_cpus=0)
    def load(job: Any, shared: Any) -> str:
        there = with_local_bundles(job, shared)
        return f"{folder_of(there)} {len(load_fitting(there)[0].detect(noise(3, 128, 128))) > 0}"

    shared = share_bundles(job)
    shutil.rmtree(tmp_path / "bundle")
    assert ray.get(load.remote(job, shared)).endswith(f"{job.model.digest} True")
