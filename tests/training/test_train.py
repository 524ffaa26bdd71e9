"""`geosod train`: from labels to a bundle, interrupted or not."""

from __future__ import annotations

import csv
import json
import math
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import geosod
from geosod.cli.main import app
from geosod.errors import ConfigError, OutputError, TrainingError
from geosod.training.config import TrainConfig, make_train_config
from geosod.training.events import Noted, Stepped, Validated
from geosod.training.prepared import batch_maker, plan_of, prepare
from geosod.training.rates import learning_rate
from geosod.training.run_folder import RunFolder
from geosod.training.state import State
from tests.training.sets import labelled

#: A network that takes milliseconds a step.
TINY: dict[str, Any] = {
    "network": "retinanet",
    "parameters": {"backbone": "slim", "width": 8, "channels": 16, "tower": 0, "norm": "group"},
    "tile": 64,
    "batch": 4,
    "precision": "fp32",
    "threads": 1,
}


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled(tmp_path_factory.mktemp("train"), images=6, objects=8)


@pytest.fixture(scope="module")
def val(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled(tmp_path_factory.mktemp("val"), images=2, objects=8, seed=9)


def losses(run: Path) -> list[tuple[int, float]]:
    rows = list(csv.DictReader((run / "log.csv").read_text().splitlines()))
    return [(int(row["step"]), float(row["total"])) for row in rows]


def test_a_model_learns_and_detects(labels: Path, val: Path, tmp_path: Path) -> None:
    events = []
    result = geosod.train(
        labels,
        val=val,
        out=tmp_path / "run",
        steps=140,
        validate_every=70,
        on_event=events.append,
        lr=4e-3,
        ema=0.95,
        **TINY,
    )
    assert result.exit_code == 0 and result.bundle == tmp_path / "run" / "model" and result.step == 140
    assert result.figures["AP50"] > 0.5
    steps = [event for event in events if isinstance(event, Stepped)]
    assert steps[-1].losses["total"] < 0.5 * steps[0].losses["total"]
    assert [event.step for event in events if isinstance(event, Validated)] == [70, 140]
    card = geosod.load_model(result.bundle).card
    assert card.classes == ("bright", "red") and card.bands == ("red", "green", "blue") and 0.05 < card.threshold < 0.99
    assert card.accuracy["AP50"] == result.figures["AP50"] and card.provenance["steps"] == 140
    assert str(tmp_path) not in json.dumps(card.provenance)
    image = next((val.parent / "images").glob("*.tif"))
    assert len(geosod.detect(str(image), model=result.bundle, engine="serial")[image.stem].detections) > 2
    assert logged(tmp_path / "run" / "tensorboard") == [s.step for s in steps]
    assert {"model", "log.csv", "validation.csv", "checkpoint.pt", "settings.yaml", "curves.png"} <= {
        path.name for path in (tmp_path / "run").iterdir()
    }


@pytest.fixture(scope="module")
def whole(labels: Path, val: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 40 steps that nobody interrupted."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    geosod.train(labels, val=val, out=out, steps=40, validate_every=100, **TINY)
    return out


def logged(folder: Path) -> list[int]:
    """Steps of the loss that TensorBoard shows."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return [one.step for one in found.Scalars("loss/total")]


class TestInterrupted:
    def test_a_seed_repeats_a_run(self, labels: Path, val: Path, whole: Path, tmp_path: Path) -> None:
        geosod.train(labels, val=val, out=tmp_path / "again", steps=40, validate_every=100, loaders=2, **TINY)
        assert losses(tmp_path / "again") == losses(whole)
        other = geosod.train(labels, val=val, out=tmp_path / "other", steps=40, seed=2, **TINY)
        assert losses(other.folder) != losses(whole)

    @pytest.mark.slow
    @pytest.mark.parametrize("moment", [12, 23])
    def test_killed_and_continued_follows_the_same_curve(
        self, labels: Path, val: Path, whole: Path, tmp_path: Path, moment: int
    ) -> None:
        out = tmp_path / "killed"
        settings = TINY | {"steps": 40, "validate_every": 100, "save_every": 3}
        code = (
            "import geosod, json, os, signal, sys\n"
            "from geosod.training.state import State\n"
            "train = State.train\n"
            "def killed(self, *args, **kwargs):\n"
            f"    if self.step == {moment}: os.kill(os.getpid(), signal.SIGKILL)\n"
            "    return train(self, *args, **kwargs)\n"
            "State.train = killed\n"
            "labels, val, out, settings = sys.argv[1:]\n"
            "geosod.train(labels, val=val, out=out, **json.loads(settings))\n"
        )
        ended = subprocess.run([sys.executable, "-c", code, labels, val, out, json.dumps(settings)], check=False)
        assert ended.returncode == -signal.SIGKILL
        events: list[Any] = []
        result = geosod.train(labels, val=val, out=out, on_event=events.append, **settings)
        assert result.step == 40
        assert any(isinstance(e, Noted) and f"step {moment - moment % 3} of 40" in e.text for e in events)
        # A report is the mean of ten steps: those before the checkpoint are lost from the first.
        assert losses(out)[-1] == losses(whole)[-1]
        again, once = (load_file(run / "model" / "model.safetensors") for run in (out, whole))
        assert all(torch.equal(again[name], once[name]) for name in once)

    def test_stopped_by_the_clock(self, labels: Path, val: Path, whole: Path, tmp_path: Path) -> None:
        out, stopped = tmp_path / "short", 0
        for _ in range(60):
            result = geosod.train(labels, val=val, out=out, steps=40, validate_every=100, max_minutes=1e-5, **TINY)
            if result.bundle is not None:
                break
            stopped += 1
            assert result.exit_code == 3
            if stopped == 3:
                result = geosod.train(labels, val=val, out=out, steps=40, validate_every=100, **TINY)
                break
        assert stopped == 3 and result.step == 40
        again, once = (load_file(run / "model" / "model.safetensors") for run in (out, whole))
        assert all(torch.equal(again[name], once[name]) for name in once)

    def test_a_complete_run_is_left_alone(self, labels: Path, val: Path, whole: Path) -> None:
        before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}
        result = geosod.train(labels, val=val, out=whole, steps=40, validate_every=100, **TINY)
        assert result.bundle == whole / "model" and result.figures
        assert before == {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}

    def test_other_settings_need_another_folder(self, labels: Path, val: Path, whole: Path) -> None:
        with pytest.raises(OutputError, match="run with other settings or data"):
            geosod.train(labels, val=val, out=whole, steps=41, **TINY)

    @pytest.mark.parametrize("seed", [20250101123456, 1 << 80])
    def test_a_seed_may_be_large(self, labels: Path, val: Path, tmp_path: Path, seed: int) -> None:
        assert geosod.train(labels, val=val, out=tmp_path / "run", steps=2, seed=seed, **TINY).step == 2

    def test_a_damaged_checkpoint_is_named(self, labels: Path, val: Path, tmp_path: Path) -> None:
        out = tmp_path / "run"
        geosod.train(labels, val=val, out=out, steps=9, max_minutes=1e-5, **TINY)
        (out / "checkpoint.pt").write_bytes(b"nothing")
        with pytest.raises(ConfigError, match=r"checkpoint\.pt: cannot be read as a checkpoint"):
            geosod.train(labels, val=val, out=out, steps=9, **TINY)

    def test_what_others_wrote_is_not_touched(self, labels: Path, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("years of work")
        with pytest.raises(OutputError, match="holds no training run"):
            geosod.train(labels, out=tmp_path, steps=2, overwrite=True, **TINY)
        assert (tmp_path / "thesis.txt").read_text() == "years of work"


class TestBadInput:
    def test_images_that_are_damaged_are_reported_and_the_run_goes_on(self, tmp_path: Path) -> None:
        labels = labelled(tmp_path / "set", images=5, objects=6)
        broken = sorted((tmp_path / "set" / "images").glob("*.tif"))[0]
        broken.write_bytes(broken.read_bytes()[:300])
        events: list[Any] = []
        result = geosod.train(labels, out=tmp_path / "run", steps=3, val_share=0.4, on_event=events.append, **TINY)
        assert result.exit_code == 3 and result.bundle is not None
        assert any(broken.name in text for text in result.left_out)
        with pytest.raises(Exception, match=broken.name):
            geosod.train(labels, out=tmp_path / "other", steps=3, val_share=0.4, on_error="stop", **TINY)

    def test_a_loss_that_explodes(self, labels: Path, val: Path, tmp_path: Path) -> None:
        with pytest.raises(TrainingError, match="not finite at step"):
            geosod.train(
                labels, val=val, out=tmp_path / "run", steps=60, optimizer="sgd", lr=1e30, clip=None, warmup=0, **TINY
            )

    def test_weights_that_are_no_numbers_are_not_kept(
        self, labels: Path, val: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A checkpoint between two reports; the one before it stays, from which the run goes on."""
        train, out, options = State.train, tmp_path / "run", {"steps": 20, "save_every": 4, "validate_every": 100}

        def spoiled(self: State, *args: Any, **kwargs: Any) -> Any:
            losses = train(self, *args, **kwargs)
            if self.step == 6:
                with torch.no_grad():
                    next(self.criterion.parameters()).fill_(math.nan)
            return losses

        monkeypatch.setattr(State, "train", spoiled)
        with pytest.raises(TrainingError, match=r"weights .*: not finite at step 8"):
            geosod.train(labels, val=val, out=out, **options, **TINY)
        monkeypatch.undo()
        assert geosod.train(labels, val=val, out=out, **options, **TINY).step == 20

    def test_nothing_to_learn(self, tmp_path: Path) -> None:
        labels = labelled(tmp_path / "set", images=3, objects=0)
        with pytest.raises(ConfigError, match="no object to learn"):
            geosod.train(labels, val=labels, out=tmp_path / "run", **TINY)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"network": "yolo12"}, "network 'yolo12': is no member"),
            ({"parameters": {"depth": 3}}, "depth"),
            ({"levels": "1:0-80,0.5"}, "needs sizes for every scale"),
            ({"stepps": 3}, "stepps: unknown setting"),
            ({"slice": "640-480"}, "minimum"),
            ({"ray_workers": 2, "max_minutes": 3}, "max-minutes with ray-workers"),
            ({"minimum": "0,1"}, "minimum has 2 values for 3 bands"),
            ({"init": "/nowhere/weights.pt"}, "neither 'imagenet' nor a bundle"),
        ],
    )
    def test_settings_are_refused_in_one_line(
        self, labels: Path, val: Path, tmp_path: Path, settings: dict, message: str
    ) -> None:
        with pytest.raises(geosod.GeosodError, match=message) as caught:
            geosod.train(labels, val=val, out=tmp_path / "run", **(TINY | settings))
        assert "\n" not in str(caught.value)

    def test_a_pickle_is_not_executed(self, labels: Path, val: Path, tmp_path: Path) -> None:
        import pickle

        class Evil:
            def __reduce__(self) -> Any:
                return (Path.touch, (tmp_path / "owned",))

        (tmp_path / "w.pt").write_bytes(pickle.dumps({"state_dict": Evil()}))
        with pytest.raises(geosod.GeosodError):
            geosod.train(labels, val=val, out=tmp_path / "run", init=str(tmp_path / "w.pt"), **TINY)
        out = tmp_path / "run2"
        geosod.train(labels, val=val, out=out, steps=9, max_minutes=1e-5, **TINY)
        (out / "checkpoint.pt").write_bytes(pickle.dumps(Evil()))
        with pytest.raises(ConfigError, match="cannot be read as a checkpoint"):
            geosod.train(labels, val=val, out=out, steps=9, **TINY)
        assert not (tmp_path / "owned").exists()


class TestRate:
    def test_warm_up_and_cosine(self) -> None:
        config = TrainConfig(lr=1.0, warmup=10, schedule="cosine")
        rates = [learning_rate(step, 100, config, epoch=10) for step in range(100)]
        assert rates[0] == pytest.approx(0.01) and rates[10] == pytest.approx(1.0)
        assert np.all(np.diff(rates[:11]) > 0) and np.all(np.diff(rates[10:]) < 0) and rates[-1] < 0.02

    def test_fractional_milestones(self) -> None:
        """SNIP drops the rate after 5.33 epochs."""
        config = TrainConfig(lr=1.0, warmup=0, schedule="steps", milestones=(5.33, 6.0))
        rates = [learning_rate(step, 700, config, epoch=100) for step in range(700)]
        assert rates[532] == 1.0 and rates[533] == pytest.approx(0.1)
        assert rates[599] == pytest.approx(0.1) and rates[600] == pytest.approx(0.01)


def test_settings_from_yaml(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "labels: train.json\nparameters: {width: 8}\nresize-width: [800, 1333]\nslice: 480-640\n"
    )
    config = make_train_config(tmp_path / "a.yaml", steps=5)
    assert config.slice == (480, 640) and config.resize_width == (800, 1333) and config.steps == 5
    levels = make_train_config(levels="2:0-80,1:40-160").levels
    assert levels is not None and [level.sizes for level in levels] == [(0, 80), (40, 160)]
    assert make_train_config(fusion="0.5,0.4,0.3").fusion == (0.5, 0.4, 0.3)
    assert make_train_config(fusion="s-alpha").fusion == "s-alpha"
    assert make_train_config(loss="box_loss=giou,alpha=0.3").loss == {"box_loss": "giou", "alpha": 0.3}


def test_command_line(labels: Path, val: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(json.dumps(TINY))
    command = ["train", str(labels), "--val", str(val), "--config", str(tmp_path / "tiny.yaml"), "--steps", "12"]
    result = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "run"), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["bundle"] == str(tmp_path / "run" / "model") and found["step"] == 12


@pytest.mark.parametrize("network", ["retinanet", "fcos", "centre", "faster-rcnn"])
def test_examples_to_look_at(labels: Path, val: Path, network: str) -> None:
    """What a dry run draws as positive examples of an object lies on it."""
    settings = TINY | {"network": network, "parameters": {"backbone": "slim", "width": 8, "channels": 16}}
    ready = prepare(TrainConfig(labels=str(labels), val=str(val), **settings))
    batch = batch_maker(ready, ready.config)(0)
    with torch.no_grad():
        examples = ready.criterion.examples(batch.images, batch.targets)
    count = 0
    for target, (boxes, classes) in zip(batch.targets, examples, strict=True):
        own = target.boxes[~target.ignored]
        for box, label in zip(boxes, classes, strict=True):
            shared = (torch.minimum(box[2:], own[:, 2:]) - torch.maximum(box[:2], own[:, :2])).clamp(min=0).prod(dim=1)
            assert shared.max() > 0 and int(label) in target.labels[~target.ignored][shared > 0]
            count += 1
    assert count >= sum(int((~target.ignored).sum()) for target in batch.targets) / 2


def test_short_runs_are_validated_at_their_end_only(labels: Path, val: Path, tmp_path: Path) -> None:
    config = make_train_config(labels=str(labels), val=str(val), out=str(tmp_path), **TINY)
    data = prepare(config).data
    plans = [plan_of(data, config.model_copy(update={"steps": steps})) for steps in (20, 150, 600)]
    assert [plan.validate_every for plan in plans] == [25, 25, 100]


def test_dry_run(labels: Path, val: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(json.dumps(TINY | {"lr": 3e-3}))
    command = ["train", str(labels), "--val", str(val), "--config", str(tmp_path / "tiny.yaml"), "--dry-run"]
    result = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert int(re.search(r"positive examples: (\d+)", result.stdout)[1]) > 0
    assert (tmp_path / "run-batch.png").stat().st_size > 10_000
    assert not (tmp_path / "run").exists()
    # Said before the network is trained, which may take minutes.
    assert f"the batch is drawn in {tmp_path / 'run-batch.png'}" in " ".join(result.stderr.split())
    slow = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "run"), "--lr", "1e-9"])
    assert slow.exit_code == 3 and "hardly learns" in slow.stdout


@pytest.mark.slow
def test_ray_workers_share_batches_and_are_replaced(
    labels: Path, val: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker is killed in mid-run; the loss curve is that of one process, up to rounding."""
    import threading

    import psutil

    settings = TINY | {"steps": 60, "validate_every": 100, "save_every": 5}
    killed: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not killed:
            for process in psutil.process_iter(["cmdline"]):
                name = " ".join(process.info["cmdline"] or [])
                if "RayTrainWorker" in name and "IDLE" not in name and list((tmp_path / "ray" / "ray").rglob("*.pt")):
                    process.kill()
                    killed.append(process.pid)
                    return
            time.sleep(0.2)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    # Workers start in another folder, where a relative path leads nowhere.
    monkeypatch.chdir(labels.parent)
    result = geosod.train(labels.name, val=val, out=tmp_path / "ray", ray_workers=2, **settings)
    thread.join(5)
    steps = [step for step, _ in losses(result.folder)]
    assert steps == sorted(set(steps))
    # Of twelve two are kept, beside those that the killed worker had not handed over.
    assert len(list(RunFolder(result.folder).ray.rglob("checkpoint.pt"))) <= 4
    assert killed and result.step == 60 and result.bundle is not None
    alone = geosod.train(labels, val=val, out=tmp_path / "alone", **settings)
    two, one = (load_file(folder / "model" / "model.safetensors") for folder in (result.folder, alone.folder))
    for name in one:
        assert torch.allclose(one[name].float(), two[name].float(), atol=2e-3, rtol=2e-2), name
