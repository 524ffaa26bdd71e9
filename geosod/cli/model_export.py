"""`geosod model export`: a network of the zoo as an ONNX graph, for other programs or as a bundle of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geosod.cli.printing import Json, Quiet, print_json
from geosod.cli.sample import Sample, sample_of
from geosod.cli.streams import print_error
from geosod.errors import ConfigError, ModelError
from geosod.scene import TileBatch

if TYPE_CHECKING:
    import numpy as np

    from geosod.detectors.agreement import Agreement
    from geosod.running.job import Job


def export_command(
    model: Annotated[str, typer.Argument(help="A model of geosod's own networks: a name, or a bundle's folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="FILE.onnx, or a folder for a bundle.", show_default=False)],
    int8: Annotated[bool, typer.Option("--int8", help="Compute in 8-bit integers; needs --calibrate.")] = False,
    calibrate: Annotated[
        list[str] | None, typer.Option("--calibrate", help="Scenes whose pixel values set the scales of --int8.")
    ] = None,
    tiles: Annotated[int, typer.Option("--tiles", min=1, max=1000, help="Tiles to calibrate on.")] = 16,
    decode: Annotated[
        bool, typer.Option("--decode/--raw", help="FILE.onnx returns boxes, or the network's raw maps.")
    ] = True,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", min=0, max=1, help="Minimum score in FILE.onnx."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a network as an ONNX graph, and compare its boxes with those of the model.

    FILE.onnx takes "images" (B, bands, H, W), float32 from 0 to 1, H and W multiples of 32, and returns "boxes"
    (B, K, 4), corners in pixels, "scores" (B, K), -1 in rows without a box, and "labels" (B, K); without NMS. Images
    have the size of tiles; those of small-fpn, centre-unet and centre may be larger. A folder becomes a bundle for
    `geosod detect --model FOLDER`.

    Example: geosod model export demo-harbour -o harbour-int8 --int8 --calibrate scenes/
    """
    from geosod.detectors.agreement import agreement
    from geosod.running.detect import make_job

    as_file = out.suffix.lower() == ".onnx"
    job = make_job(model, device="cpu", backend="eager", precision="fp32", threshold=threshold)
    _check(job, out, int8=int8, calibrate=calibrate)
    # Half of the tiles are for calibrating, and the others, which the scales have not seen, for comparing.
    sample = sample_of(job, calibrate or [], 2 * tiles if int8 else 4)
    graph = _graph(job, sample, int8=int8)
    if as_file:
        _write_file(job, graph, out, decode=decode)
        _print(out, None, "written", json=json, quiet=quiet)
        return
    made = _write_bundle(job, graph, out, int8=int8)
    rest = _every_second(sample.tiles) if int8 and len(sample.tiles) > 1 else sample.tiles
    exported = make_job(made, device="cpu", precision="int8" if int8 else "fp32", threshold=threshold)
    before, after = (_boxes(one, rest) for one in (job, exported))
    found = agreement(before, after)
    words = f"{_words(found)} on {len(rest)} tiles of {sample.what.partition(' of ')[2]}"
    _print(out, found, words, json=json, quiet=quiet)


def _print(out: Path, found: Agreement | None, words: str, *, json: bool, quiet: bool) -> None:
    """Say what was written; with the agreement of its boxes where they were compared."""
    if json:
        compared = None if found is None else asdict(found) | {"f1": found.f1}
        print_json({"out": str(out), "agreement": compared})
    elif not quiet:
        print_error(f"{out}: {words}")


def _every_second(tiles: TileBatch) -> TileBatch:
    return TileBatch.concat([tiles[i : i + 1] for i in range(1, len(tiles), 2)])


def _check(job: Job, out: Path, *, int8: bool, calibrate: list[str] | None) -> None:
    from geosod.detectors.zoo import backends_of

    if job.model.card.adapter != "zoo":
        raise ModelError(
            f"model {job.model.card.name!r}: has the adapter {job.model.card.adapter!r}; only geosod's own networks, "
            "with the adapter 'zoo', can be exported"
        )
    if "onnxruntime" not in backends_of(job.model.card.architecture):
        raise ModelError(
            f"model {job.model.card.name!r}: networks of the kind {job.model.card.architecture} run in torch only, and "
            "cannot be exported; train one of another kind for ONNX, such as fcos"
        )
    if int8 != bool(calibrate):
        raise ConfigError("--int8 and --calibrate SCENES go together: 8-bit integers need scales from real pixels")
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise ConfigError(f"{out} exists; choose another name, or remove it")


def _graph(job: Job, sample: Sample, *, int8: bool) -> bytes:
    from geosod.detectors.export import raw_graph
    from geosod.detectors.quantize import quantized

    # Whoever runs it may choose bf16.
    graph = raw_graph(job.model.card, _network(job), "int8" if int8 else "bf16")
    return quantized(graph, _images(job, sample), name=job.model.card.name) if int8 else graph


def _network(job: Job) -> Any:
    from geosod.detectors.adapters.zoo import read_network
    from geosod.detectors.models import BundleModel

    assert isinstance(job.model, BundleModel)
    return read_network(job.model.bundle)


def _images(job: Job, sample: Sample) -> Iterator[np.ndarray[Any, Any]]:
    """What the network gets for every second tile."""
    from geosod.detectors.export import network_images

    for i in range(0, len(sample.tiles), 2):
        yield network_images(sample.tiles[i : i + 1], job.model.card)


def _write_file(job: Job, graph: bytes, out: Path, *, decode: bool) -> None:
    from geosod.detectors.export import with_decoding, with_metadata

    card, network = job.model.card, _network(job)
    whole = with_decoding(graph, card, network, threshold=job.class_rules.min_score) if decode else graph
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(
        with_metadata(whole, card, {"threshold": str(job.class_rules.min_score), "nms_iou": str(card.nms_iou)})
    )


def _write_bundle(job: Job, graph: bytes, out: Path, *, int8: bool) -> Path:
    from geosod.detectors.bundle import write_bundle

    card, precision = job.model.card, "int8" if int8 else "fp32"
    origin = {"exported from": card.name, "digest": job.model.digest}
    exported = replace(
        card,
        name=f"{card.name}-{precision}",
        adapter="zoo-onnx",
        parameters={"network": dict(card.parameters), "precision": precision},
        weights_file="model.onnx",
        framework="onnx",
        artifact_type="onnx",
        # Measured with the network that was exported, not with this one.
        accuracy={},
        provenance=dict(card.provenance) | origin,
    )
    write_bundle(out, exported, graph)
    return out


def _boxes(job: Job, tiles: TileBatch) -> Any:
    from geosod.running.job import load_fitting

    return load_fitting(job)[0].detect_batch(tiles).per_tile()


def _words(found: Agreement) -> str:
    return (
        f"{found.found:,} boxes where the model has {found.reference:,}, F1 {found.f1:.4f}, coordinates differ by at "
        f"most {found.max_px:.3f} px and {found.mean_px:.3f} on average, scores by at most {found.max_score:.4f}"
    )
