"""How much a command prints, and in which form: the same options and the same JSON everywhere."""

from __future__ import annotations

import json as json_text
from dataclasses import asdict
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress and no summary, only what failed.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print every scene and failure.")]


def print_json(value: Any) -> None:
    """Print a dataclass or mapping as JSON on standard output."""
    print(json_text.dumps(value if isinstance(value, dict) else asdict(value), indent=2, ensure_ascii=False))
