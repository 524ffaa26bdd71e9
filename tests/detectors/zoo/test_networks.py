"""Every network of the zoo with a pyramid, as a detector: bundles, batches, graphs, and what is not a number."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from geosod.api import load_model
from geosod.detectors import write_bundle
from geosod.detectors.adapters.zoo import ZooAdapter, boxes_of, network
from geosod.detectors.card import ModelCard
from geosod.detectors.export import raw_graph, with_decoding
from geosod.detectors.runtimes import open_session
from geosod.detectors.zoo import ARCHITECTURES, backends_of
from geosod.errors import ConfigError, ModelError
from geosod.results import Execution

SMALL = {"backbone": "slim", "width": 8, "channels": 16}
#: Architecture → parameters of small networks of it.
CASES = {
    "retinanet": ("retinanet", SMALL | {"tower": 1}),
    "retinanet-half-stride": (
        "retinanet",
        SMALL | {"tower": 1, "stem_stride": 1, "fusion": "attention", "scales": [1.0, 1.5], "head_norm": "group"},
    ),
    "retinanet-lite0": (
        "retinanet",
        {
            "backbone": "efficientnet-lite0",
            "channels": 16,
            "tower": 0,
            "fusion": [0.5, 0.4, 0.3],
            "sizes": [6, 12, 24, 48, 96],
        },
    ),
}
CASES |= {
    "fcos": ("fcos", SMALL | {"tower": 1}),
    "fcos-varifocal": ("fcos", SMALL | {"tower": 1, "quality": "varifocal", "head_norm": "none"}),
}
CASES |= {"faster-rcnn": ("faster-rcnn", SMALL | {"proposals": 40, "hidden": 32, "pool": 3})}
CASES |= {
    "ssd": ("ssd", {"backbone": "slim", "width": 16}),
    "ssd-shapes": (
        "ssd",
        {"backbone": "slim", "width": 16, "maps": 2, "shapes": [[[6, 6], [8, 5]], [[16, 16], [20, 9], [9, 20]]]},
    ),
    "centre": ("centre", SMALL),
    "centre-points": ("centre", SMALL | {"side": 9.0, "stride": 1, "window": 5}),
}
EXPORTED = [name for name, (architecture, _) in CASES.items() if "onnxruntime" in backends_of(architecture)]


def card(case: str, **changes) -> ModelCard:
    architecture, parameters = CASES[case]
    values = {
        "name": case, "architecture": architecture, "parameters": parameters, "bands": ("red", "green", "blue"),
        "dtype": "uint8", "minimum": (0.0,) * 3, "maximum": (255.0,) * 3, "classes": ("a", "b", "c"), "tile": 64,
        "overlap": 16, "threshold": 0.3, "license": "Apache-2.0", "top_k": 60,
    }  # fmt: skip
    return ModelCard(**(values | changes))


def lively(case: str):
    """A network that finds something: normalisations that are not the identity, and scores about the threshold."""
    torch.manual_seed(1)
    made = network(card(case)).eval()
    with torch.no_grad():
        for name, value in made.state_dict().items():
            if name.endswith(("running_mean", "norm.bias")):
                value.normal_(std=0.2)
            elif name.endswith("running_var"):
                value.uniform_(0.7, 1.4)
        for module in made.modules():
            if isinstance(module, torch.nn.Conv2d) and module.bias is not None and module.bias.min() < -4:
                module.bias.fill_(-0.6)
                module.weight.mul_(10)
        if case.startswith("faster"):
            made.rpn_out.weight.mul_(10)
            made.out.weight.normal_(std=0.5)
    return made


def execution(backend: str = "eager", batch: int = 3) -> Execution:
    return Execution("cpu", backend, "fp32", batch, 1)


@pytest.fixture(scope="module")
def tiles() -> torch.Tensor:
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("case", CASES)
def test_a_bundle_gives_the_boxes_of_its_network(case, tmp_path, tiles) -> None:
    model = lively(case)
    write_bundle(tmp_path / "m", card(case), model.state_dict())
    detector = load_model(tmp_path / "m", device="cpu", backend="eager", precision="fp32")
    pixels = (tiles * 255).to(torch.uint8).numpy()
    found = detector.detect(pixels)
    assert sum(map(len, found)) > 5
    with torch.inference_mode():
        raw = boxes_of(model, model(torch.from_numpy(pixels).float() / 255), card(case), size=(64, 64), threshold=0.3)
    for i, one in enumerate(found):
        mine = raw.scores[raw.tile == i].double().numpy()
        # What suppression leaves are boxes of the network; clipped, so compared by score.
        assert np.abs(one.scores[:, None] - mine[None]).min(axis=1).max(initial=0) < 1e-4


@pytest.mark.parametrize("case", CASES)
def test_a_tile_gives_the_same_numbers_in_any_company(case, tiles) -> None:
    adapter = ZooAdapter(card(case), lively(case), execution(), threshold=0.3)
    first, again = adapter.predict(tiles.clone()), adapter.predict(tiles.flip(0))
    assert len(first.boxes) > 10
    for i in range(3):
        a, b = first.tile == i, again.tile == 2 - i
        kept_a, kept_b = a & torch.isfinite(first.scores), b & torch.isfinite(again.scores)
        assert torch.equal(first.boxes[kept_a], again.boxes[kept_b])
        assert torch.equal(first.scores[kept_a], again.scores[kept_b])
        assert torch.equal(first.labels[kept_a], again.labels[kept_b])


@pytest.mark.parametrize("case", CASES)
def test_a_tile_that_is_not_a_number_is_recognised_and_harms_no_other(case, tiles) -> None:
    adapter = ZooAdapter(card(case), lively(case), execution(), threshold=0.3)
    sound = adapter.predict(tiles.clone())
    spoilt = tiles.clone()
    spoilt[1] = torch.nan
    found = adapter.predict(spoilt)
    assert sound.broken.tolist() == [False] * 3 and found.broken.tolist() == [False, True, False]
    for i in (0, 2):
        a, b = (r.scores[(r.tile == i) & torch.isfinite(r.scores)] for r in (sound, found))
        assert torch.equal(a, b)


@pytest.mark.parametrize("case", CASES)
def test_in_bf16_boxes_are_still_float32_and_near(case, tiles) -> None:
    exact = ZooAdapter(card(case), lively(case), execution(), threshold=0.05).predict(tiles.clone())
    rough = ZooAdapter(card(case), lively(case), replace(execution(), precision="bf16"), threshold=0.05)
    found = rough.predict(tiles.clone())
    assert found.boxes.dtype == torch.float32
    for i in range(3):
        best = [r.scores[r.tile == i].max() for r in (exact, found)]
        assert abs(float(best[0] - best[1])) < 0.1


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("case", EXPORTED)
def test_runtimes_give_the_boxes_of_torch(case, runtime, tiles) -> None:
    pytest.importorskip(runtime)
    model = lively(case)
    wanted = ZooAdapter(card(case), model, execution(), threshold=0.3).predict(tiles.clone())
    adapter = ZooAdapter(card(case), model, execution(runtime), threshold=0.3)
    got = adapter.predict(tiles.clone())
    agree(got, wanted)
    # Another size and number of images, with the same graph.
    other = torch.rand(1, 3, 96, 32)
    agree(adapter.predict(other.clone()), ZooAdapter(card(case), model, execution(), threshold=0.3).predict(other))


def agree(got, wanted) -> None:
    """The same boxes, but for those at the threshold; in order of their scores, of which some nearly tie."""
    for i in range(int(wanted.tile.max()) + 1):
        a, b = (
            torch.cat([r.boxes, r.scores[:, None], r.labels[:, None].float()], dim=1)[
                (r.tile == i) & (r.scores > 0.301)
            ]
            for r in (got, wanted)
        )
        assert abs(len(a) - len(b)) <= 2 and len(b) > 0
        distance = (a[:, None] - b[None]).abs().amax(dim=2)
        assert (distance.min(dim=1).values < 0.02).float().mean() > 0.97
        assert (distance.min(dim=0).values < 0.02).float().mean() > 0.97


@pytest.mark.parametrize("case", EXPORTED)
def test_an_exported_file_decodes_as_the_network_does(case, tiles) -> None:
    model, of = lively(case), card(case)
    graph = with_decoding(raw_graph(of, model), of, model, threshold=0.3)
    session = open_session(graph, execution("onnxruntime"))
    boxes, scores, labels = (torch.from_numpy(value) for value in session.run(tiles.numpy()))
    with torch.inference_mode():
        wanted = model.fused().decode(
            model.fused()(tiles), size=(64, 64), threshold=0.3, topk=of.top_k * model.candidates_per_box
        )
    kept, mine = scores > 0.301, wanted[1] > 0.301
    assert abs(int(kept.sum()) - int(mine.sum())) <= 2 and kept.sum() > 5
    rows = [torch.cat([b, s[..., None], k[..., None].float()], dim=2) for b, s, k in ((boxes, scores, labels), wanted)]
    for i in range(3):
        distance = (rows[0][i][kept[i]][:, None] - rows[1][i][mine[i]][None]).abs().amax(dim=2)
        assert (distance.min(dim=1).values < 0.02).float().mean() > 0.97
    if model(tiles).ndim == 3:
        with pytest.raises(Exception, match=r"(?i)dimension|shape"):
            session.run(tiles[:, :, :32, :32].numpy())


def test_a_network_with_proposals_runs_in_torch_alone(tmp_path) -> None:
    model = lively("faster-rcnn")
    write_bundle(tmp_path / "m", card("faster-rcnn"), model.state_dict())
    with pytest.raises(ConfigError, match="backend 'onnxruntime' cannot run this model; use eager or auto"):
        load_model(tmp_path / "m", device="cpu", backend="onnxruntime")
    assert load_model(tmp_path / "m", device="cpu").execution.backend == "eager"
    with pytest.raises(ModelError, match="cannot be made an ONNX graph"):
        raw_graph(card("faster-rcnn"), model)


def test_exporting_a_network_with_proposals_is_refused_in_one_line(tmp_path) -> None:
    from geosod.cli.model_export import export_command

    write_bundle(tmp_path / "m", card("faster-rcnn"), lively("faster-rcnn").state_dict())
    with pytest.raises(ModelError, match="faster-rcnn run in torch only"):
        export_command(str(tmp_path / "m"), tmp_path / "out.onnx", False, None, 1, True, None)
    assert not (tmp_path / "out.onnx").exists()


def test_raw_output_of_another_size_is_refused() -> None:
    model = lively("retinanet")
    with pytest.raises(ModelError, match="has 1023 places, but images of 32 x 64 px have"):
        model.decode(torch.zeros(1, 1023, 7), size=(64, 32), threshold=0.1, topk=5)


@pytest.mark.parametrize("wrong", [{"tower": "four"}, {"speed": 3}, {"tower": -1}, {"backbone": "vgg"}], ids=str)
@pytest.mark.parametrize("architecture", sorted({of for of, _ in CASES.values()}))
def test_parameters_that_a_network_refuses_are_named(architecture, wrong) -> None:
    case = next(name for name, (of, _) in CASES.items() if of == architecture)
    if next(iter(wrong)) == "tower" and "tower" not in CASES[case][1]:
        pytest.skip("has no tower")
    with pytest.raises((ModelError, ConfigError), match=f"{next(iter(wrong))}|refuses its parameters"):
        network(card(case, parameters=CASES[case][1] | wrong))


def test_every_architecture_is_tried() -> None:
    assert {of for of, _ in CASES.values()} == set(ARCHITECTURES) - {"small-fpn", "centre-unet"}
