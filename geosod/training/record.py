"""What a training run leaves in its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file


def save_run(out: Path, model: torch.nn.Module, record: dict[str, Any]) -> None:
    """Write ``model.safetensors``, replacing it in one step, and ``training.json``."""
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    partial = out / "model.safetensors.partial"
    save_file(weights, partial)
    partial.replace(out / "model.safetensors")
    (out / "training.json").write_text(json.dumps(record, indent=2) + "\n")
