"""The device that a user asks for, as a value. What torch finds of it is a matter of `geosod.detectors.devices`."""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Kinds of devices, by torch's names. With "auto" that is CUDA where there is a GPU, and else the CPU.
KINDS = ("auto", "cpu", "cuda", "mps", "xpu", "npu", "mlu")
#: Other words for a kind: PaddleX's.
_ALIASES = {"gpu": "cuda"}
_FORM = re.compile(r"([a-z]+)(?::(\d{1,4}(?:,\d{1,4})*))?")


@dataclass(frozen=True, slots=True)
class Device:
    """One device, or several of one kind.

    Attributes:
        kind: one of `KINDS`.
        indices: numbers of the devices; empty for all of them, or where the kind has only one.
    """

    kind: str
    indices: tuple[int, ...] = ()

    @property
    def is_accelerator(self) -> bool:
        """Whether a device other than the CPU was asked for."""
        return self.kind not in ("auto", "cpu")

    @property
    def names(self) -> tuple[str, ...]:
        """torch's names: "cuda" where no numbers were given, else one such as "cuda:1" for each."""
        return tuple(f"{self.kind}:{i}" for i in self.indices) or (self.kind,)

    def __str__(self) -> str:
        numbers = ",".join(map(str, self.indices))
        return f"{self.kind}:{numbers}" if numbers else self.kind


def parse_device(text: str) -> Device:
    """``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``cuda:0,2``, ``gpu:0`` for CUDA, ``mps``, ``xpu``, ``npu`` or ``mlu``.

    Raises:
        ValueError: it is none of these.
    """
    match = _FORM.fullmatch(str(text).strip().lower())
    kind, numbers = match.groups() if match else ("", None)
    kind = _ALIASES.get(kind, kind)
    if kind not in KINDS:
        raise ValueError(f"must be one of {', '.join(KINDS)}, or a device such as cuda:1 or cuda:0,1 (gpu means cuda)")
    indices = tuple(int(number) for number in numbers.split(",")) if numbers else ()
    if indices and kind in ("auto", "cpu"):
        raise ValueError(f"{kind} takes no number; leave it out")
    if len(set(indices)) < len(indices):
        raise ValueError("names a device twice")
    return Device(kind, indices)


def kind_of(name: str) -> str:
    """The kind of a device by torch's name: "cuda" of "cuda:1"."""
    return name.partition(":")[0]


def detectors_per_device(share: float | None) -> int:
    """How many detectors that each take a share of a device fit on one; 1 where no share is given."""
    # A third of a device, as 0.333, is a third.
    return 1 if share is None else max(1, int(1 / share + 1e-9))
