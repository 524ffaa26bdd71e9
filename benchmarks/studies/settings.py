"""What runs, results and images of a study were made with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from geosod.errors import ConfigError


def check_settings(made_with: Path, settings: dict[str, Any]) -> None:
    """Refuse a run or result of other settings; one that has no such file is taken as it is.

    Args:
        made_with: the file of its settings.
        settings: those that it should have.

    Raises:
        ConfigError: they differ.
    """
    if not made_with.exists():
        return
    before, now = json.loads(made_with.read_text()), json.loads(json.dumps(settings))
    for name in sorted(now):
        if before.get(name) != now[name]:
            raise ConfigError(
                f"{made_with}: made with {name} {before.get(name)}, but the study now has {now[name]}; give another "
                "--work folder"
            )
