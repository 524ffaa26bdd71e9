"""What values show in notebooks, and the example notebooks, which are executed."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

import geosod
from geosod.detections import Detections
from geosod.detectors.card import ModelCard
from geosod.errors import ConfigError
from geosod.map_page.run import MapPage
from geosod.scene import SceneRef
from geosod.scenes.open import open_scene
from tests.output.samples import make_scene, random_detections
from tests.rasters import noise, write_tif

EXAMPLES = Path(__file__).parents[1] / "examples" / "notebooks"
EVIL = "<script>alert(1)</script>"


class _Parsed(HTMLParser):
    """Names of elements, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert not any(name.startswith("on") for name, _ in attrs)
        self.elements.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


def shown(value: Any) -> _Parsed:
    parsed = _Parsed(value._repr_html_())
    assert "script" not in parsed.elements
    return parsed


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, rgb_bundle: Path) -> Any:
    path = write_tif(tmp_path_factory.mktemp("scenes") / "here.tif", noise(3, 200, 240))
    return geosod.detect(path, model=rgb_bundle, engine="serial")


def test_detections_show_the_best_and_a_drawing() -> None:
    found = random_detections(0, 30)
    parsed = shown(found)
    assert parsed.elements.count("rect") == 30 and "30 boxes" in parsed.text and "and 20 more" in parsed.text
    assert f"{found.scores.max():.3f}" in parsed.text
    assert "no boxes" in shown(Detections.empty()).text


def test_results_show_their_scenes(result) -> None:
    parsed = shown(result)
    outputs = result["here"]
    assert "here" in parsed.text and f"{len(outputs.detections):,} boxes" in parsed.text and "svg" in parsed.elements
    assert "done" in shown(outputs).text and "240 x 200 px" in shown(outputs).text
    assert "240 x 200 px" in shown(outputs.scene).text


def test_names_are_text() -> None:
    scene = make_scene()
    evil = replace(scene, ref=SceneRef(f"/{EVIL}.tif", EVIL), band_names=(EVIL, "", ""))
    assert EVIL in shown(evil).text


def test_cards_and_arrays(rgb_bundle) -> None:
    detector = geosod.load_model(rgb_bundle)
    card: ModelCard = detector.card
    assert ", ".join(card.classes) in shown(card).text
    for shape in ((3, 40, 60), (40, 60, 3), (40, 60)):
        assert "img" in shown(geosod.ArrayScene(np.zeros(shape, np.uint16), id="here")).elements
    assert shown(geosod.ArrayScene(np.zeros(3, np.uint8))).elements.count("img") == 0


def test_plot_shows_the_scene_with_its_boxes(result) -> None:
    picture = np.asarray(result.plot(max_side=120))
    assert picture.shape[1] == 120 and picture.shape[0] > 100
    outputs = result["here"]
    scene = open_scene(SceneRef(outputs.scene.ref.uri, "here"))
    assert (scene.width, scene.height) == (240, 200)
    with pytest.raises(ConfigError, match="no scene 'there'"):
        result.plot("there")


def test_explore_is_a_map_in_a_frame(result, tmp_path, rgb_bundle) -> None:
    page = result.explore(threshold=0.3)
    assert isinstance(page, MapPage) and page.scenes == 1
    html = page._repr_html_()
    assert html.startswith('<iframe srcdoc="') and 'sandbox="allow-scripts"' in html
    assert _Parsed(html).elements == ["iframe"]
    written = geosod.detect(result["here"].scene.ref.uri, model=rgb_bundle, engine="serial", out=tmp_path / "o")
    assert written.explore().boxes == len(result["here"].detections)
    with pytest.raises(ConfigError, match="use explore"):
        written.plot()


def test_a_map_in_a_frame_is_drawn(result, tmp_path) -> None:
    from benchmarks.browser import chromium, complaints, is_installed

    if not is_installed():
        pytest.skip("Chromium, its driver or selenium is not installed")
    page = result.explore()
    (tmp_path / "notebook.html").write_text(f"<!DOCTYPE html><meta charset=utf-8>{page._repr_html_()}", "utf-8")
    with chromium() as driver:
        from selenium.webdriver.support.ui import WebDriverWait

        driver.get((tmp_path / "notebook.html").as_uri())
        driver.switch_to.frame(driver.find_element("css selector", "iframe"))
        WebDriverWait(driver, 60).until(lambda d: d.execute_script("return Boolean(window.geosod)"))
        assert driver.find_element("id", "count").text == f"{page.boxes:,} boxes"
        assert complaints(driver) == []


def test_progress_on_a_terminal_leaves_nothing(result, rgb_bundle, capsys) -> None:
    with geosod.progress() as on_event:
        again = geosod.detect(result["here"].scene.ref.uri, model=rgb_bundle, engine="serial", on_event=on_event)
    assert len(again["here"].detections) == len(result["here"].detections)


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells), "commit notebooks without outputs"
    NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    kinds = [kind for cell in notebook.cells for out in cell.get("outputs", ()) for kind in out.get("data", ())]
    assert kinds.count("text/html") >= 2
